"""The peer: a plain script with torch and Pillow, full decode and all, with the same network.

Reads every JPEG of a folder, writes `<stem>_mask.png` at the image's own size. No part of dermseg is used but the
network itself, so that only the way around it differs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from dermseg.bundle import Bundle


def main(source: Path, output: Path) -> None:
    bundle = Bundle.load("lesion")
    network, manifest = bundle.network(), bundle.manifest
    mean, std = (torch.tensor(v)[:, None, None] for v in (manifest.normalisation.mean, manifest.normalisation.std))
    output.mkdir(parents=True, exist_ok=True)
    for path in sorted([source] if source.is_file() else source.glob("*.jpg")):
        image = Image.open(path).convert("RGB")
        small = image.resize((manifest.input_size, manifest.input_size), Image.Resampling.BILINEAR)
        tensor = (torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1) / 255 - mean) / std
        with torch.inference_mode():
            probability = torch.sigmoid(network(tensor[None]))
            probability = F.interpolate(probability, size=image.size[::-1], mode="bilinear")
        mask = (probability[0, 0] > 0.5).numpy().astype(np.uint8) * 255
        Image.fromarray(mask).save(output / f"{path.stem}_mask.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
