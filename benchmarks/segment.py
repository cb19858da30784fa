"""How long `dermseg segment` takes on full-size photographs, beside a peer in the same run.

    python benchmarks/segment.py --data "$DERMSEG_DATA"

Each command is a whole process, timed from outside, in turn with the peer: one image of 4288 x 2848 pixels, then the
twelve images of `fullsize/` in one call. Prints the median of wall and processor seconds, and the ratio pair by pair.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from dermseg.imaging import open_image

IMAGES = Path("fullsize") / "ISIC-2017_Validation_Data"
PEER = Path(__file__).with_name("peer_torch.py")


def measure(command: Sequence[str]) -> tuple[float, float]:
    """Wall and processor seconds of one process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def compare(title: str, ours: Sequence[str], peer: Sequence[str], count: int, runs: int) -> None:
    """Time both in turn after a warm-up, and print a row."""
    for command in (ours, peer):
        measure(command)
    pairs = [(measure(ours), measure(peer)) for _ in range(runs)]
    wall, cpu = (statistics.median(pair[0][i] for pair in pairs) for i in (0, 1))
    peer_wall = statistics.median(pair[1][0] for pair in pairs)
    ratio = statistics.median(pair[1][0] / pair[0][0] for pair in pairs)
    worst = max(pair[0][0] for pair in pairs)
    print(
        f"| {title} | {wall:.2f} s (worst {worst:.2f}) | {wall / count * 1000:.0f} ms | {cpu:.2f} s "
        f"| {peer_wall:.2f} s | {ratio:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("DERMSEG_DATA"), required="DERMSEG_DATA" not in os.environ
    )
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    folder = options.data / IMAGES
    largest = max(sorted(folder.glob("*.jpg")), key=lambda path: math.prod(open_image(path).size))
    count = len(list(folder.glob("*.jpg")))
    dermseg = str(Path(sys.executable).with_name("dermseg"))
    scratch = tempfile.mkdtemp()
    try:
        print("| command | wall | per image | processor | peer's wall | peer / dermseg, paired |")
        print("|---|---|---|---|---|---|")
        for title, source, images in (("one image", largest, 1), (f"{count} images", folder, count)):
            peer = [sys.executable, str(PEER), str(source), f"{scratch}/peer"]
            for save in ("mask", "mask,overlay"):
                ours = [dermseg, "segment", str(source), "--output", f"{scratch}/ours", "--save", save]
                compare(f"{title}, {save}", ours, peer, images, options.runs)
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
