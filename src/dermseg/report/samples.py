"""Sample images of data sets with the outlines of their masks, as small pictures inside a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from dermseg.appearance import SIZE_CLASSES
from dermseg.data.catalog import LESION, Sample
from dermseg.data.statistics import Statistics, lesions
from dermseg.errors import DermsegError
from dermseg.figures import LINE, PALETTE, Colour, outline
from dermseg.imaging import encode_image, open_image, read_mask
from dermseg.report.page import Picture, Tile, data_uri, percent
from dermseg.wording import plain

SIDE = 224
TILES = 24
TILES_PER_ATTRIBUTE = 2


def lesion_tiles(statistics: Statistics, seed: int = 0, tiles: int = TILES) -> list[Tile]:
    """Samples of each data set and size class in turn; images without a lesion mask count as a size class."""
    classes = lesions(statistics)["size_class"].reindex(statistics.images.index)
    keys = list(zip(statistics.images["source"], classes.fillna("no lesion mask"), strict=True))
    order = (*SIZE_CLASSES, "no lesion mask")
    members: dict[tuple[str, str], list[int]] = {}
    for place, key in enumerate(keys):
        members.setdefault(key, []).append(place)
    members = {key: members[key] for key in sorted(members, key=lambda key: (order.index(key[1]), key[0]))}
    return _tiles(statistics, members, LESION, LINE, seed, tiles)


def attribute_tiles(statistics: Statistics, seed: int = 0, each: int = TILES_PER_ATTRIBUTE) -> list[Tile]:
    """Samples of each class beside the lesion, at most ten classes, from images that show it."""
    found: list[Tile] = []
    for number, name in enumerate(statistics.attributes[:10]):
        shown = statistics.images.index[statistics.pixels[name] > 0].tolist()
        found += _tiles(statistics, {(name, ""): shown}, name, PALETTE[number % len(PALETTE)], seed, each)
    return found


def _tiles(
    statistics: Statistics,
    members: Mapping[tuple[str, str], Sequence[int]],
    name: str,
    colour: Colour,
    seed: int,
    most: int,
) -> list[Tile]:
    """Take from each group in turn, in an order drawn by the seed, until there are enough."""
    rng = np.random.default_rng(seed)
    drawn = [rng.permutation(places).tolist() for places in members.values()]
    turns = [place for turn in range(most) for places in drawn for place in places[turn : turn + 1]]
    found: list[Tile] = []
    for place in turns:
        if len(found) == most:
            break
        try:
            found.append(_tile(statistics, place, name, colour))
        except DermsegError:  # a file that is gone since it was measured
            continue
    return found


def _tile(statistics: Statistics, place: int, name: str, colour: Colour) -> Tile:
    sample: Sample = statistics.samples[place]
    pixels = open_image(sample.image).pixels(at_least=SIDE)
    scale = SIDE / max(pixels.shape)
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    resized = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    picture = resized.astype(np.uint8, copy=False)
    cover = float(statistics.cover[name].loc[place]) if name in statistics.pixels else np.nan
    what = plain(name)
    share = f"{what} {percent(cover)}" if cover == cover else f"no {what} mask"
    if cover == cover:
        mask = cv2.resize(read_mask(sample.masks[name]).view(np.uint8) * 255, size, interpolation=cv2.INTER_AREA)
        picture = outline(picture, mask > 127, colour)
    uri = data_uri(encode_image(picture, "WEBP"), "image/webp")
    alt = f"Image {sample.id} of {sample.source}, {share}"
    return Tile(Picture(uri, *size, alt), sample.id, f"{sample.source} · {share}")
