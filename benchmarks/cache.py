"""How fast, and in how much memory, images and masks are fitted into a network's size ahead of training.

    python benchmarks/cache.py --data "$DERMSEG_DATA" --count 10000 --size 192

Builds a cache of lesion images in a temporary folder, then opens it again.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

from dermseg.data import cache, catalog
from dermseg.data.catalog import LESION
from dermseg.parallel import cores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=192)
    arguments = parser.parse_args()
    samples = catalog.with_masks(catalog.read(arguments.data), [LESION])[: arguments.count]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with tempfile.TemporaryDirectory() as folder:
        for what in ("built", "opened again"):
            wall, busy = time.perf_counter(), time.process_time()
            cache.load(samples, [LESION], arguments.size, folder=Path(folder))
            wall, busy = time.perf_counter() - wall, time.process_time() - busy
            count = len(samples)
            print(
                f"{what}: {count} images in {wall:.1f} s on {cores()} cores, {busy:.1f} s of processor time: "
                f"{count / busy:.0f} images/s per core"
            )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"memory: {before:.0f} MB with the catalogue, at most {peak:.0f} MB")


if __name__ == "__main__":
    main()
