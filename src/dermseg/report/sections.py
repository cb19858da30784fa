"""The sections of a data report: of each side of the data, its charts and tables in words and numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dermseg.appearance import LARGE, SIZE_CLASSES, SKIN_TONE_LIMITS, SKIN_TONES, TINY
from dermseg.data import statistics as tables
from dermseg.data.splits import SPLITS
from dermseg.data.statistics import ARTEFACTS, CHANNELS, Statistics
from dermseg.report import charts
from dermseg.report.charts import COLOURS, Chart, chart, rows_height
from dermseg.report.page import Cell, Percent, Section, Table, percent
from dermseg.wording import plain

Groups = dict[str, NDArray[np.float64]]

MOST_CLASSES = len(COLOURS)  # beside the lesion, in charts; the most frequent ones
MOST_SIZES = 8
DOTS, DOTS_A_SIDE = 300, 48  # sizes of images that are drawn one by one; a coarser grid where there are more
SPLIT_COLOURS = COLOURS[3:6]
TONE_COLOURS = ("#f6e0cf", "#e6bd9b", "#c9925f", "#a0683d", "#6d4026", "#3d2418")
LEAST = {"hair": 0.01, "ruler": 0.0, "vignette": 0.01}
"""The share of an image above which it counts as one with hair, with a ruler, with a vignette."""
BOX_NOTE = "Line: median; box: middle half of the images; whiskers: 5th to 95th percentile."
SKIN_NOTE = "Estimated from uncalibrated images: light, camera and contact gel change it. It is no Fitzpatrick type."


def data_sets(statistics: Statistics) -> Section:
    """What there is: images, masks, licences and splits."""
    columns: dict[str, str] = {
        "source": "data set",
        "licence": "licence",
        "images": "images",
        "groups": "lesions or patients",
        "with_lesion_mask": "with lesion mask",
        "with_attribute_masks": "with attribute masks",
        **{split: split for split in SPLITS},
    }
    rows = tables.sources(statistics)[list(columns)].to_numpy(object).tolist()
    text = "An image of which no lesion or patient is known counts as one of its own."
    return Section("data-sets", "Data sets", text, tables=[Table("Data sets", list(columns.values()), rows)])


def class_balance(statistics: Statistics) -> Section | None:
    """How much of an image the lesion covers; None without lesion masks."""
    lesions = tables.lesions(statistics)
    if not len(lesions):
        return None
    label = "lesion, share of the image"
    limits = f"Dashed: {percent(TINY)} and {percent(LARGE)}, the limits of the size classes."
    histograms, boxes = [], []
    for name, key, order, colours in (
        ("data set", "source", None, COLOURS),
        ("split", "split", SPLITS, SPLIT_COLOURS),
    ):
        groups = _by(lesions, "ratio", key, order)
        histograms.append(
            _histograms(
                f"lesion_share_by_{key}_histogram",
                f"Lesion share by {name}",
                groups,
                np.linspace(0, 1, 41),
                label,
                percent,
                limits,
                marks=(TINY, LARGE),
                percent=True,
                colours=colours,
            )
        )
        boxes.append(
            _boxes(
                f"lesion_share_by_{key}_box",
                f"Lesion share by {name}, box plot",
                groups,
                label,
                percent,
                percent=True,
                colours=colours,
            )
        )
    shares = _shares(lesions, "size_class", SIZE_CLASSES)
    classes = chart(
        "size_classes",
        "Size classes",
        "Share of tiny, medium and large lesions. " + _read_out(shares),
        partial(charts.stacks, table=shares, label="share of images"),
        note=f"Tiny: below {percent(TINY)} of the image; large: above {percent(LARGE)}.",
        height=rows_height(len(shares), 0.3, 1.0),
    )
    counts = lesions["size_class"].value_counts()
    rules = (f"below {percent(TINY)}", f"{percent(TINY)} to {percent(LARGE)}", f"above {percent(LARGE)}")
    rows: list[list[Cell]] = [
        [name, rule, int(counts.get(name, 0)), Percent(counts.get(name, 0) / len(lesions))]
        for name, rule in zip(SIZE_CLASSES, rules, strict=True)
    ]
    return Section(
        "class-balance",
        "Class balance",
        "How much of an image the lesion covers: the foreground that a network sees.",
        [*histograms, *boxes, classes],
        [Table("Lesions by size class", ("size class", "share of the image", "images", "of images"), rows)],
    )


def attributes(statistics: Statistics) -> Section | None:
    """How often the classes beside the lesion are seen, alone and together; None where there are none."""
    table = tables.attributes(statistics)
    if not len(table):
        return None
    everything = table[table["split"] == "all"].set_index("attribute")
    most = set(everything["shown"].nlargest(MOST_CLASSES).index)
    names = [name for name in everything.index if name in most]  # in their own order
    splits = [name for name in (*SPLITS, "all") if name in set(table["split"])]
    counts, shares = (
        table.pivot(index="split", columns="attribute", values=value).loc[splits, names] for value in ("shown", "share")
    )
    together = tables.cooccurrence(statistics).loc[names, names]
    pairs = together.to_numpy()
    cover = statistics.cover
    areas = {name: _numbers(cover.loc[cover[name] > 0, name]) for name in names}
    read_out = _read_out(shares)
    drawn = [
        chart(
            "attribute_pies",
            "Which attributes are seen, by split",
            "Pie charts of how the attributes that are seen share out. Share of images that show each: " + read_out,
            partial(charts.pies, table=counts.fillna(0).astype(int)),
            note="A slice is the attribute's part of all that are seen; n counts these: an image may show several.",
            height=rows_height(-(-len(counts) // 2), 2.1, 1.0),
        ),
        chart(
            "attribute_shares",
            "Share of images that show each attribute",
            "Bar chart of the share of images that show each attribute. " + read_out,
            partial(charts.bars, table=shares.drop(index="all").T, label="share of images", colours=SPLIT_COLOURS),
            height=rows_height(len(names), 0.7, 1.2),
        ),
        chart(
            "attribute_cooccurrence",
            "Attributes seen together",
            "Matrix of how many images show two attributes: "
            + ", ".join(
                f"{plain(names[one])} and {plain(names[other])} {pairs[one, other]:,}"
                for one, other in combinations(range(len(names)), 2)
            ),
            partial(charts.matrix, table=together, shares=together.div(np.maximum(np.diag(pairs), 1), axis=0)),
            note="Images that show both. Colour: the share of the row's images that show the column's attribute too.",
            height=4.6,
        ),
        _boxes(
            "attribute_areas",
            "Area of an attribute where it is seen",
            {name: own for name, own in areas.items() if len(own)},
            "share of the image",
            percent,
            percent=True,
        ),
    ]
    whole, by_split = everything.to_dict("index"), shares.to_dict("index")
    rows: list[list[Cell]] = [
        [
            plain(name),
            whole[name]["images"],
            whole[name]["shown"],
            *(Percent(by_split[split][name]) for split in splits),
            Percent(whole[name]["median_area"]),
        ]
        for name in names
    ]
    columns = ("attribute", "images", "shown in", *(f"share, {split}" for split in splits), "median area where shown")
    return Section(
        "attributes",
        "Attributes",
        "How often each structure is seen and how much of the image it covers. A mask without a pixel says that the "
        "structure is absent.",
        drawn,
        [Table("Share of images that show each attribute, by split", columns, rows)],
    )


def image_sizes(statistics: Statistics) -> Section:
    """Widths, heights and formats."""
    images = statistics.images
    width, height = images["width"], images["height"]
    sizes = images.groupby(["source", "width", "height", "format"], sort=False).size().reset_index(name="images")
    step = max(width.max(), height.max()) / DOTS_A_SIDE if len(sizes) > DOTS else 1  # else the page grows too large
    dots = sizes.assign(**{side: (sizes[side] / step).round() * step for side in ("width", "height")})
    dots = dots.groupby(["source", "width", "height"], sort=False)["images"].sum().reset_index()
    by_source = {str(name): own for name, own in dots.groupby("source", sort=False)}
    top = sizes.nlargest(MOST_SIZES, "images")
    rows: list[list[Cell]] = [
        [f"{row['width']:,} × {row['height']:,}", row["format"], row["source"], row["images"]]
        for row in top.to_dict("records")
    ]
    formats = ", ".join(f"{name} {of:,}" for name, of in images["format"].value_counts().items())
    return Section(
        "image-sizes",
        "Image sizes",
        f"Width {width.min():,} to {width.max():,}, height {height.min():,} to {height.max():,} pixels. "
        f"Formats: {formats}.",
        [
            chart(
                "image_sizes",
                "Width and height",
                f"Scatter plot of width and height; the most frequent size is {rows[0][0]}.",
                partial(charts.scatter, sizes=by_source),
                note="A dot for each size, its area by how many images have it; dotted: square.",
                height=4.4,
            ),
            _histograms(
                "image_ratios",
                "Width / height",
                _by(images.assign(ratio=width / height), "ratio", "source"),
                np.linspace(0.5, 2, 31),
                "width / height",
                "{:.2f}".format,
            ),
        ],
        [Table("Most frequent sizes", ("width × height", "format", "data set", "images"), rows)],
    )


def colour(statistics: Statistics) -> Section:
    """Mean colours and contrasts."""
    images = statistics.images
    one_digit = "{:.1f}".format
    drawn = [
        _histograms(
            "colour_channels",
            "Mean of red, green and blue",
            {name: _numbers(images[f"{name} mean"]) for name in CHANNELS[:3]},
            np.linspace(0, 255, 52),
            "mean of an image, 0 to 255",
            one_digit,
            colours=(COLOURS[1], COLOURS[2], COLOURS[0]),
        ),
        _histograms(
            "colour_lightness",
            "Lightness by data set",
            _by(images, "L* mean", "source"),
            np.linspace(0, 100, 51),
            "mean L*, 0 (black) to 100 (white)",
            one_digit,
        ),
        *(
            _boxes(f"colour_{name}", f"{title} by data set", _by(images, column, "source"), label, one_digit)
            for name, title, column, label in (
                ("contrast", "Contrast", "L* std", "standard deviation of L*"),
                ("green_red", "Green to red", "a* mean", "mean a*"),
                ("blue_yellow", "Blue to yellow", "b* mean", "mean b*"),
            )
        ),
    ]
    rows: list[list[Cell]] = [
        [row["source"], *(f"{row[f'{name} mean']:.1f} ± {row[f'{name} std']:.1f}" for name in CHANNELS)]
        for row in tables.sources(statistics).to_dict("records")
    ]
    return Section(
        "colour",
        "Colour",
        "A network trained on the colours of one data set may fail on those of another.",
        drawn,
        [Table("Mean and standard deviation within an image, averaged over images", ("data set", *CHANNELS), rows)],
    )


def skin_tone(statistics: Statistics) -> Section | None:
    """The estimated typology angle; None where it is known of no image."""
    known = statistics.images.dropna(subset=["ita"])
    if not len(known):
        return None
    groups = _by(known, "ita", "source")
    shares = _shares(known, "tone", SKIN_TONES)
    return Section(
        "skin-tone",
        "Skin tone, estimated",
        f"The individual typology angle (ITA) of the skin around the lesion, in {len(known):,} of "
        f"{len(statistics.images):,} images, with the class names of Chardon et al. {SKIN_NOTE}",
        [
            _histograms(
                "skin_tone_angles",
                "Individual typology angle, estimated",
                groups,
                np.arange(-60, 121, 4, dtype=np.float64),
                "ITA, degrees: dark to light",
                "{:.0f}°".format,
                f"Dashed: the classes' limits, {', '.join(f'{limit}°' for limit in SKIN_TONE_LIMITS)}. Above 90°: a "
                "blue tint. The outermost bars hold what lies beyond.",
                marks=SKIN_TONE_LIMITS,
            ),
            chart(
                "skin_tone_classes",
                "Classes of skin tone, estimated",
                "Share of images in each class of estimated skin tone. " + _read_out(shares),
                partial(charts.stacks, table=shares, label="share of images", colours=TONE_COLOURS),
                note=SKIN_NOTE,
                height=rows_height(len(shares), 0.36, 1.4),
            ),
        ],
    )


def artefacts(statistics: Statistics) -> Section:
    """Hair, rulers and vignettes."""
    images = statistics.images
    seen = images[list(ARTEFACTS)].gt(pd.Series(LEAST)).groupby(images["source"], sort=False).mean()
    return Section(
        "artefacts",
        "Hair, ruler, vignette",
        "What lies over the skin or around it, found by classical image processing: estimates, not labels.",
        [
            chart(
                "artefacts",
                "Images with hair, ruler or vignette",
                "Share of images with hair, a ruler or a vignette. " + _read_out(seen),
                partial(charts.bars, table=seen, label="share of images"),
                note=f"Hair or vignette on more than {percent(LEAST['hair'])} of the image; any ruler.",
                height=rows_height(len(seen), 0.6, 1.2),
            ),
            _boxes(
                "hair",
                "Hair by data set",
                _by(images, "hair", "source"),
                "hair, share of the image",
                percent,
                percent=True,
            ),
        ],
    )


def _histograms(
    name: str,
    title: str,
    groups: Groups,
    bins: NDArray[np.float64],
    label: str,
    spoken: Callable[[float], str],
    note: str = "",
    **options: object,
) -> Chart:
    draw = partial(charts.histograms, values=groups, bins=bins, label=label, **options)  # type: ignore[arg-type]
    alt = f"Histograms, {label}. {_medians(groups, spoken)}"
    return chart(name, title, alt, draw, note=note, height=rows_height(len(groups), 1.1))


def _boxes(
    name: str, title: str, groups: Groups, label: str, spoken: Callable[[float], str], **options: object
) -> Chart:
    draw = partial(charts.boxes, values=groups, label=label, **options)  # type: ignore[arg-type]
    alt = f"Box plots, {label}. {_medians(groups, spoken)}"
    return chart(name, title, alt, draw, note=BOX_NOTE, height=rows_height(len(groups), 0.7))


def _medians(groups: Groups, spoken: Callable[[float], str]) -> str:
    return "Medians: " + ", ".join(f"{plain(name)} {spoken(float(np.median(own)))}" for name, own in groups.items())


def _by(table: pd.DataFrame, value: str, key: str, order: Sequence[str] | None = None) -> Groups:
    """The values of each group that has any."""
    names = order or list(dict.fromkeys(table[key]))
    groups = {str(name): _numbers(table.loc[table[key] == name, value]) for name in names}
    return {name: own for name, own in groups.items() if len(own)}


def _numbers(values: pd.Series[float]) -> NDArray[np.float64]:
    return np.asarray(values.dropna(), np.float64)


def _shares(table: pd.DataFrame, value: str, order: Sequence[str]) -> pd.DataFrame:
    """How the values share out in each data set, each split and all; a row sums to 1."""
    groups = {str(name): own for key in ("source", "split") for name, own in table.groupby(key, sort=False)[value]}
    names = [*dict.fromkeys(table["source"]), *(name for name in SPLITS if name in groups)]
    shares = {name: groups[name].value_counts(normalize=True) for name in names}
    shares["all"] = table[value].value_counts(normalize=True)
    return pd.DataFrame(shares).T.reindex(columns=list(order)).fillna(0.0)


def _read_out(shares: pd.DataFrame) -> str:
    """A table of shares in words, for those who cannot see its chart."""
    rows = (
        f"{name}: " + ", ".join(f"{plain(column)} {percent(float(share))}" for column, share in row.items())
        for name, row in shares.iterrows()
    )
    return "; ".join(rows) + "."
