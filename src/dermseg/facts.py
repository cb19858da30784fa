"""What is known of an image beside its scores: the lesion's size, the skin's tone, hair, diagnosis and the like."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from dermseg import appearance
from dermseg.appearance import LARGE, SIZE_CLASSES, TINY
from dermseg.data.catalog import LESION, Sample
from dermseg.data.metadata import KEYS
from dermseg.errors import DermsegError
from dermseg.imaging import read_mask
from dermseg.protocols import Mask, Masks

SKIN_TONE = "skin_tone_estimated"
HAIR = ("none", "some", "much")
HAIR_LIMITS = (0.01, 0.08)  # shares of the image; a class reaches up to its limit
AGES = ("under 30", "30 to 49", "50 to 69", "70 and over")
AGE_LIMITS = (30, 50, 70)


def facts_of(sample: Sample, prediction: Masks, truths: Mapping[str, Mask]) -> dict[str, str | float]:
    """What is known of an image beside its scores, by name; without what is not known.

    - `lesion_fraction`: the share of the image that the true lesion covers; `lesion_size`: its class, as
      `appearance.SIZE_CLASSES`; `touches_border`: whether it reaches the image's edge, yes or no.
    - `skin_tone_estimated` and `ita_estimated`: as `appearance.skin_tone` has them, where there is a true mask of the
      lesion.
    - `hair_estimated`: none, some or much; `hair_fraction_estimated`: the share of the image that is hair;
      `ruler_estimated`: yes or no.
    - `diagnosis`, `sex`, `age` (a band), `age_years` and `site`: what the data set's tables say.

    Args:
        sample: The image. Its lesion mask is read where `truths` are of structures in the lesion.
        prediction: Gives the photograph and its size.
        truths: (H, W) at the image's size, by class.
    """
    facts: dict[str, str | float] = {}
    pixels, lesion = prediction.pixels, _lesion(sample, prediction.size, truths)
    small = None
    if lesion is not None:
        share = facts["lesion_fraction"] = float(lesion.mean())
        if share > 0:
            facts["lesion_size"] = SIZE_CLASSES[(share >= TINY) + (share > LARGE)]
            edges = lesion[0], lesion[-1], lesion[:, 0], lesion[:, -1]
            facts["touches_border"] = _yes(any(edge.any() for edge in edges))
        size = (pixels.shape[1], pixels.shape[0])
        small = cv2.resize(lesion.view(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(np.bool_)
    seen = appearance.look(pixels, small)
    if lesion is not None and seen.skin_tone is not None:  # without a mask, the lesion would count as skin
        facts |= {SKIN_TONE: seen.skin_tone.name, "ita_estimated": seen.skin_tone.ita}
    facts |= {
        "hair_estimated": _class(seen.hair, HAIR_LIMITS, HAIR),
        "hair_fraction_estimated": seen.hair,
        "ruler_estimated": _yes(seen.ruler > 0),
    }
    facts |= {key: sample.metadata[key] for key in KEYS if key in sample.metadata}
    if "age" in facts:
        years = float(facts["age"])
        facts |= {"age": _class(years, AGE_LIMITS, AGES), "age_years": years}
    return facts


def _class(value: float, limits: tuple[float, ...], names: tuple[str, ...]) -> str:
    """The class of a value, of which each but the last reaches up to its limit, without it."""
    return names[sum(value >= limit for limit in limits)]


def _yes(true: bool) -> str:
    return "yes" if true else "no"


def _lesion(sample: Sample, size: tuple[int, int], truths: Mapping[str, Mask]) -> Mask | None:
    """The true mask of the lesion, also where structures in it are scored; None where none can be used."""
    if LESION in truths or LESION not in sample.masks:
        return truths.get(LESION)
    try:
        mask = read_mask(sample.masks[LESION])
    except DermsegError:  # the scores do without it
        return None
    return mask if mask.shape == size else None
