"""What stands out in data sets, in plain sentences with the numbers that show it."""

from __future__ import annotations

from collections.abc import Iterator

from dermseg.appearance import LARGE, SKIN_TONES, TINY
from dermseg.data import statistics as tables
from dermseg.data.statistics import CHANNELS, Statistics
from dermseg.report.page import percent
from dermseg.wording import count, plain


def stands_out(statistics: Statistics) -> list[str]:
    """The sentences, the most general first; none about what the data sets do not have."""
    if not len(statistics.images):
        return ["No image could be read."]
    return [
        *_files(statistics),
        *_lesions(statistics),
        *_attributes(statistics),
        *_looks(statistics),
    ]


def _files(statistics: Statistics) -> Iterator[str]:
    images = statistics.images
    if statistics.failures:
        yield f"{count(len(statistics.failures), 'file')} could not be used, and none of what follows counts them."
    if shared := int((images.groupby("id")["source"].nunique() > 1).sum()):
        yield (
            f"{count(shared, 'image id')} in more than one data set: the same image must never lie on both sides of a "
            "split."
        )
    groups = images.groupby("source")["group"].nunique()
    for source, own in images.groupby("source", sort=False):
        if (named := int(groups[source])) < len(own):
            lesions = count(named, "lesion or patient", "lesions or patients")
            yield f"{source} shows {lesions} in {count(len(own), 'image')}: split it by these."
    sides = images.groupby("id")["split"].nunique()
    if torn := int((sides > 1).sum()):
        yield f"{count(torn, 'image id')} on more than one side of the split."


def _lesions(statistics: Statistics) -> Iterator[str]:
    lesions = tables.lesions(statistics)
    if len(lesions) < len(statistics.images):
        yield f"{count(len(statistics.images) - len(lesions), 'image')} without a lesion mask that can be used."
    if not len(lesions):
        return
    ratio = lesions["ratio"]
    yield (
        f"The lesion covers more than {percent(LARGE)} of the image in {percent((ratio > LARGE).mean())} of "
        f"{len(ratio):,} images and less than {percent(TINY)} in {percent((ratio < TINY).mean())}; the median is "
        f"{percent(ratio.median())}, and {percent(ratio.between(0.1, 0.4).mean())} lie between 10 and {percent(0.4)}."
    )
    if empty := int((lesions["lesion_pixels"] == 0).sum()):
        yield f"{count(empty, 'lesion mask')} without a pixel."
    medians = lesions.groupby("source", sort=False)["ratio"].median()
    if len(medians) > 1:
        yield (
            f"Lesions are largest in {medians.idxmax()} (median {percent(medians.max())}) and smallest in "
            f"{medians.idxmin()} ({percent(medians.min())})."
        )


def _attributes(statistics: Statistics) -> Iterator[str]:
    table = tables.attributes(statistics)
    table = table[table["split"] == "all"].set_index("attribute")
    if not len(table):
        return
    names = statistics.attributes
    pixels = statistics.pixels[names].dropna(how="all")
    share = dict(zip(table.index, table["share"], strict=True))
    most, least = max(share, key=share.__getitem__), min(share, key=share.__getitem__)
    if most != least:
        yield (
            f"Attributes are uneven: {plain(most)} is seen in {percent(share[most])} of images, "
            f"{plain(least)} in {percent(share[least])}; {percent((pixels > 0).sum(axis=1).eq(0).mean())} "
            f"of {len(pixels):,} images show none."
        )


def _looks(statistics: Statistics) -> Iterator[str]:
    images = statistics.images
    colours = images.groupby("source", sort=False)[[f"{name} mean" for name in CHANNELS[3:]]].mean()
    if len(colours) > 1:
        furthest = str((colours.max() - colours.min()).idxmax())
        means = colours[furthest]
        yield (
            f"Between data sets, colour differs most in {furthest.removesuffix(' mean')}: its mean is "
            f"{means.min():.1f} in {means.idxmin()} and {means.max():.1f} in {means.idxmax()}."
        )
    tones = images["tone"].dropna()
    if len(tones):
        light, dark = tones.isin(SKIN_TONES[:2]).mean(), tones.isin(SKIN_TONES[-2:]).mean()
        yield (
            f"The skin around the lesion is light or very light in {percent(light)} of {len(tones):,} images and brown "
            f"or dark in {percent(dark)}, estimated from uncalibrated images."
        )
    hair, vignette = (images[name].gt(0.01).mean() for name in ("hair", "vignette"))
    yield (
        f"Hair covers more than {percent(0.01)} of the image in {percent(hair)} of images, a vignette in "
        f"{percent(vignette)} (estimated)."
    )
