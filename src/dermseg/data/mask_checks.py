"""What can be wrong with one mask: its values, its shape and which side of the outline is foreground; and the repair.

A fault is a pair of a kind (see ``dermseg.data.quality.KINDS``) and a sentence with the figures that prove it.
"""

from __future__ import annotations

from collections.abc import Collection

import cv2
import numpy as np
from numpy.typing import NDArray

from dermseg.appearance import vignette_mask
from dermseg.imaging import MASK_THRESHOLD, turned

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Fault = tuple[str, str]

SOFT = 0.2  # of the foreground: more of it that depends on the threshold is no blurred edge
FULL = 0.995
TINY = 0.001
SPECK = 0.0005  # of the image: the largest component, or hole, that counts as a slip of the hand
FRAME = 0.9  # of the frame's edge

# Inversion is judged on squares of this side.
SIDE = 96
# Logistic regression without intercept on ISIC 2017's masks and their inverses; docs/data-quality.md has its errors.
RIM_WEIGHT, LIGHTNESS_WEIGHT, CENTRE_WEIGHT = 2.0, 1.6, 2.1


def share_of(mask: Mask) -> float:
    """The share of a mask (H, W) that is foreground."""
    return cv2.countNonZero(mask.view(np.uint8)) / mask.size


def value_fault(grey: Pixels, may_be_empty: bool) -> Fault | None:
    """Say what is wrong with a mask's grey values (H, W), if anything is."""
    counts = _histogram(grey)
    values = np.flatnonzero(counts)
    low, high = int(values[0]), int(values[-1])
    shown = ", ".join(map(str, values[:6])) + (", ..." if len(values) > 6 else "")
    if high == 0:
        return None if may_be_empty else ("empty-mask", f"is empty: all {grey.size} pixels are background")
    if high <= MASK_THRESHOLD or (low > MASK_THRESHOLD and low != high):
        read_as = "empty" if high <= MASK_THRESHOLD else "full"
        return (
            "label-values",
            f"holds the values {shown}, all on one side of {MASK_THRESHOLD}, so it is read as {read_as}",
        )
    if set(values) <= {0, 255}:
        return None
    foreground = int(counts[MASK_THRESHOLD + 1 :].sum())
    doubtful = int(counts[65:193].sum())  # foreground at a threshold of 64, background at 192
    if len(values) > 2 and doubtful > SOFT * foreground:
        return (
            "not-binary",
            f"holds {len(values)} grey values ({shown}); {doubtful / grey.size:.1%} of it are 65 to 192",
        )
    return "soft-mask", f"holds {len(values)} grey values ({shown}) where 0 and 255 are expected"


def shape_faults(mask: Mask) -> list[Fault]:
    """Say what is odd about the shape of a lesion's mask (H, W) that is not empty."""
    share = share_of(mask)
    if share > FULL:
        return [("full-mask", f"covers {share:.2%} of the image")]
    faults = []
    if share < TINY:
        faults.append(("tiny-mask", f"covers only {share:.3%} of the image"))
    rim = float(np.concatenate([mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]]).mean())
    if rim > FRAME:
        faults.append(("frame-mask", f"covers {rim:.0%} of the frame's edge"))
    elif rim > 0:
        faults.append(("cut-off", f"covers {rim:.0%} of the frame's edge"))
    regions = np.sort(_areas(mask))[:-1]
    holes = _areas(_holes(mask))
    for areas, small, large in (regions, "specks", "several-components"), (holes, "pinholes", "holes"):
        for kind, found in (small, areas[areas < SPECK * mask.size]), (large, areas[areas >= SPECK * mask.size]):
            if len(found):
                what = "regions beside the largest" if areas is regions else "holes"
                faults.append((kind, f"has {what}: {len(found)}, of {found.min()} to {found.max()} pixels"))
    return faults


def inversion_score(pixels: Pixels, mask: Mask) -> float:
    """Judge whether foreground and background are exchanged: above 0 they are, the log-odds by the fit.

    An inverted mask has the opposite score.

    Args:
        pixels: RGB, uint8 (H, W, 3), of any size.
        mask: Bool, of any size.

    Returns:
        The score; 0 where one side hardly holds a pixel.
    """
    rim, lighter, further = sides(pixels, mask) or (0.0, 0.0, 0.0)
    return RIM_WEIGHT * rim + LIGHTNESS_WEIGHT * lighter + CENTRE_WEIGHT * further


def sides(pixels: Pixels, mask: Mask) -> tuple[float, float, float] | None:
    """Compare foreground with background, within the dermoscope's field.

    Returns:
        How much of the field's rim is foreground (-1 to 1), how much lighter the foreground is (in standard deviations,
        -1.5 to 1.5) and how much further from the middle it lies (-1 to 1); None where one side hardly holds a pixel.
        All change their sign where the mask is inverted.
    """
    small = cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    inside = cv2.resize(mask.view(np.uint8) * 255, (SIDE, SIDE), interpolation=cv2.INTER_AREA) > 127
    field = ~vignette_mask(small)
    one, other = field & inside, field & ~inside
    if min(one.sum(), other.sum()) < 4:
        return None
    inner = cv2.erode(field.astype(np.uint8), np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    rim = 2 * float(inside[field & (inner == 0)].mean()) - 1
    light = cv2.cvtColor(small, cv2.COLOR_RGB2LAB)[..., 0].astype(np.float32)
    lighter = float(light[one].mean() - light[other].mean()) / (float(light[field].std()) + 2)
    place = np.linspace(-1, 1, SIDE)
    distance = np.hypot(place[:, None], place[None, :])
    further = 2 * float(distance[one].mean() - distance[other].mean())
    return rim, float(np.clip(lighter, -1.5, 1.5)), float(np.clip(further, -1, 1))


def agreement(one: Mask, other: Mask) -> float | None:
    """The intersection over union of two masks at the smaller one's size; None where their shapes are too different.

    Two empty masks agree.
    """
    small, large = sorted((one, other), key=lambda mask: mask.size)
    if abs(np.log((small.shape[0] * large.shape[1]) / (small.shape[1] * large.shape[0]))) > 0.03:
        return None  # another crop of the photograph
    if small.shape != large.shape:
        size = (small.shape[1], small.shape[0])
        large = cv2.resize(large.view(np.uint8) * 255, size, interpolation=cv2.INTER_AREA) > 127
    union = int((small | large).sum())
    return float((small & large).sum()) / union if union else 1.0


def repair(grey: Pixels, kinds: Collection[str], exif_orientation: int = 1) -> Mask:
    """Mend what the kinds name and can be mended without a judgement: values, side, orientation, specks and tiny holes.

    Args:
        grey: The mask's values (H, W).
        kinds: Of the findings about it.
        exif_orientation: The image's, 1 to 8, for a mask drawn on the image as it is stored.

    Returns:
        The mask, (H, W) or (W, H) where it is turned.
    """
    mask = grey == grey.max() if "label-values" in kinds else grey > MASK_THRESHOLD
    if "turned-mask" in kinds:
        mask = turned(mask.view(np.uint8), exif_orientation).view(np.bool_)
    if "inverted-mask" in kinds:
        mask = ~mask
    if "specks" in kinds:
        kept = mask & ~_small(mask)
        mask = kept if kept.any() else mask  # a lesion that is no larger itself
    if "pinholes" in kinds:
        mask = mask | _small(_holes(mask))
    return mask


def is_mendable(kind: str, grey: Pixels) -> bool:
    """Whether ``repair`` can mend a fault: several labels, for instance, have no one right reading."""
    return kind in MENDABLE and (kind != "label-values" or np.count_nonzero(_histogram(grey)) == 2)


MENDABLE = frozenset({"label-values", "not-binary", "soft-mask", "turned-mask", "inverted-mask", "specks", "pinholes"})


def _histogram(grey: Pixels) -> NDArray[np.float32]:
    """How many pixels (H, W) have each value, (256,); NumPy's would take eight times the memory of the mask."""
    counts: NDArray[np.float32] = (
        cv2.calcHist([grey], [0], None, [256], [0, 256]).ravel().astype(np.float32, copy=False)
    )
    return counts


def _areas(mask: Mask) -> NDArray[np.int64]:
    stats = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)[2]
    areas: NDArray[np.int64] = stats[1:, cv2.CC_STAT_AREA].astype(np.int64)
    return areas


def _holes(mask: Mask) -> Mask:
    """Background that does not reach the frame, (H, W)."""
    framed = cv2.copyMakeBorder(mask.view(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    cv2.floodFill(framed, None, (0, 0), 1, flags=4)
    holes: Mask = framed[1:-1, 1:-1] == 0
    return holes


def _small(mask: Mask) -> Mask:
    """The components of a mask that are no larger than a speck."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA]
    small = areas < SPECK * mask.size
    small[0] = False
    found: Mask = small[labels]
    return found
