"""The page on data sets: it holds what it shows, escapes what it is given, and reads without a network."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dermseg.data import findings, statistics
from dermseg.data.catalog import ATTRIBUTES, LESION, Sample
from dermseg.data.findings import Finding
from dermseg.data.statistics import Statistics
from dermseg.errors import InputError
from dermseg.imaging import encode_image, encode_mask, open_image
from dermseg.report import data
from dermseg.report.output import replacing
from dermseg.report.page import Percent, Signed, Table, number, percent
from dermseg.report.samples import lesion_tiles
from dermseg.report.sentences import stands_out
from dermseg.synthetic import draw

HOSTILE = "<img src=x onerror=alert(1)>"
VOID = {"meta", "img", "input", "path", "use", "link", "br"}


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, and the text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.script = ""
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._open[-1:] == ["script"]:
            self.script += data
        elif self._open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def samples(folder: Path, count: int, classes: tuple[str, ...] = (), source: str = "plain") -> list[Sample]:
    """Drawn photographs; each has a mask of each class, of the lesion or of a part of it."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for place in range(count):
        drawn = draw(place, (96, 128))
        image = folder / f"{source}{place}.png"
        image.write_bytes(encode_image(drawn.pixels))
        masks = {}
        for index, name in enumerate(classes):
            masks[name] = folder / f"{source}{place}_{index}.png"
            seen = drawn.mask if name == LESION or (place + index) % 2 else np.zeros_like(drawn.mask)
            masks[name].write_bytes(encode_mask(seen))
        made.append(Sample(image.stem, image, masks, image.stem, source, "CC0-1.0"))
    return made


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Statistics:
    folder = tmp_path_factory.mktemp("full")
    chosen = [
        *samples(folder / "one", 6, (LESION, *ATTRIBUTES), "isic2018"),
        *samples(folder / "two", 5, (LESION,), "ph2"),
    ]
    broken = replace(chosen[0], id="broken", image=folder / "broken.png")
    broken.image.write_bytes(b"\x89PNG\r\n\x1a\n")
    return statistics.gather([*chosen, broken], {f"isic2018{n}": ("train", "tune", "test")[n % 3] for n in range(6)})


@pytest.fixture(scope="module")
def found(full: Statistics) -> list[Finding]:
    image = full.samples[0].image
    return [
        findings.make("hair", "isic20180", "isic2018", image, "has hair on 12 % of it"),
        findings.make("inverted-mask", "isic20180", "isic2018", image, "is foreground at its border"),
        findings.make("duplicate", "ph21", "ph2", full.samples[7].image, "is a copy", image),
    ]


@pytest.fixture(scope="module")
def written(full: Statistics, found: list[Finding], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data.write(full, found, tmp_path_factory.mktemp("report"), title="Two sets")


@pytest.fixture(scope="module")
def page(written: Path) -> Page:
    return Page(written)


def test_the_page_shows_what_was_found(page: Page, full: Statistics) -> None:
    text = page.text
    for words in ("Two sets", "11 images", "11 lesion masks", "30 attribute masks", "2 data sets", "Class balance"):
        assert words in text
    for words in ("Attributes seen together", "Skin tone, estimated", "estimated from uncalibrated images"):
        assert words in text
    assert "1 error, 1 warning, 1 note." in text
    assert text.index("inverted-mask") < text.index("is a copy") < text.index("has hair on 12 %")
    assert "Files that cannot be used" in text
    assert full.content_hash in text


def test_nothing_is_loaded_from_elsewhere(page: Page, written: Path) -> None:
    for _, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "action", "srcset", "poster", "data"):
            assert not re.match(r"\s*(\w+:)?//", attributes.get(name, "")), attributes
            if name == "src" and name in attributes:
                assert attributes[name].startswith("data:image/webp;base64,")
    html = written.read_text(encoding="utf-8")
    assert not re.search(r"url\((?!#)|@import", html)
    assert not set(re.findall(r"https?://[^\s\"'<]+", html)) - {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def test_links_and_anchors_lead_somewhere(page: Page, written: Path) -> None:
    anchors = {attributes.get("id") for _, attributes in page.elements}
    links = [attributes["href"] for attributes in page.all("a")]
    assert len(links) > 20
    for link in links:
        assert link[1:] in anchors if link.startswith("#") else (written.parent / link).is_file(), link


def test_only_its_own_script_may_run(page: Page) -> None:
    policy = next(tag["content"] for tag in page.all("meta") if tag.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(page.script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert len(page.all("script")) == 1
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]


def test_pictures_have_text_alternatives(page: Page) -> None:
    charts = [attributes for attributes in page.all("div") if attributes.get("role") == "img"]
    assert len(charts) == len(page.all("svg")) == 20
    assert all(len(chart["aria-label"]) > 40 for chart in charts)
    assert all(picture["alt"].startswith("Image ") and picture["loading"] == "lazy" for picture in page.all("img"))
    assert len(page.all("img")) == 11 + 2 * len(ATTRIBUTES)
    assert all(svg.get("viewbox") for svg in page.all("svg"))


def test_pngs_and_tables_lie_beside_the_page(written: Path, full: Statistics) -> None:
    names = {path.name for path in written.parent.iterdir()}
    assert {name for name in names if name.endswith(".csv")} == {
        *("images.csv", "masks.csv", "lesions.csv", "sources.csv", "attributes.csv", "cooccurrence.csv"),
        *("failures.csv", "findings.csv"),
    }
    pngs = [path for path in written.parent.iterdir() if path.suffix == ".png"]
    assert len(pngs) == 20
    assert all(open_image(path).pixels().std() > 1 for path in pngs)
    assert not [name for name in names if name.startswith(".")]
    lesions = pd.read_csv(written.parent / "lesions.csv")
    assert list(lesions["lesion_pixels"]) == full.pixels[LESION].tolist()
    assert len(pd.read_csv(written.parent / "findings.csv")) == 3
    assert list(pd.read_csv(written.parent / "failures.csv")["id"]) == ["broken"]


def test_names_from_the_data_are_escaped(tmp_path: Path) -> None:
    folder = tmp_path / HOSTILE
    folder.mkdir()
    (one,) = samples(tmp_path, 1, (LESION, f"{HOSTILE}$^{{&"))
    image = folder / f"{HOSTILE}.png"
    image.write_bytes(one.image.read_bytes())
    one = replace(one, id=HOSTILE, image=image, group="</script><script>", licence="<b>", source='"><svg onload=x>')
    gone = replace(one, id="]]><!--", image=folder / "gone.png")
    gathered = statistics.gather([one, gone])
    finding = findings.make("hair", HOSTILE, one.source, image, "shows {{ 7 * 7 }} & hair", image)
    seen = Page(data.write(gathered, [finding], tmp_path / "out", title=HOSTILE))
    assert not [attributes for attributes in seen.all("img") if not attributes["src"].startswith("data:")]
    assert not [name for _, attributes in seen.elements for name in attributes if name.startswith("on")]
    assert not seen.all("b") or all(not attributes for attributes in seen.all("b"))
    assert len(seen.all("script")) == 1
    assert seen.text.count(HOSTILE) > 5
    assert "]]><!--" in seen.text
    assert "{{ 7 * 7 }} & hair" in seen.text


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such file names")
def test_file_names_that_are_no_text(tmp_path: Path) -> None:
    (one,) = samples(tmp_path, 1, (LESION,))
    name = os.fsdecode(b"caf\xe9")
    image = tmp_path / f"{name}.png"
    try:
        image.write_bytes(one.image.read_bytes())
    except OSError:
        pytest.skip("this file system has no such names")
    gathered = statistics.gather(
        [replace(one, id=name, image=image), replace(one, id=f"x{name}", image=tmp_path / name)]
    )
    written = data.write(gathered, None, tmp_path / "out")
    assert "caf\\udce9" in Page(written).text
    assert "caf\\udce9" in (tmp_path / "out" / "images.csv").read_text()


@pytest.mark.parametrize(
    ("count", "classes", "present", "absent"),
    [
        (1, (LESION,), ("Class balance", "1 image", "1 data set"), ("Attributes", "more than one data set")),
        (3, (), ("without a lesion mask", "Image sizes"), ("Class balance", "Attributes", "Skin tone")),
        (2, ATTRIBUTES, ("Attributes seen together", "streaks"), ("Class balance", "Skin tone")),
        (2, (LESION, *(f"class {n}" for n in range(12))), ("Class balance", "class 0"), ("isic",)),
    ],
    ids=["one image", "no masks", "attributes alone", "many classes"],
)
def test_data_sets_of_any_kind(
    tmp_path: Path, count: int, classes: tuple[str, ...], present: tuple[str, ...], absent: tuple[str, ...]
) -> None:
    seen = Page(data.write(statistics.gather(samples(tmp_path, count, classes)), [], tmp_path / "out"))
    for words in (*present, "The check found nothing."):
        assert words in seen.text
    for words in absent:
        assert words not in seen.text


def test_no_image_can_be_read(tmp_path: Path) -> None:
    (one,) = samples(tmp_path, 1)
    one.image.write_bytes(b"")
    seen = Page(data.write(statistics.gather([one]), None, tmp_path / "out"))
    assert "No image could be read." in seen.text
    assert "is empty where a JPEG" in seen.text
    assert "`dermseg data check`" in seen.text


def test_ten_thousand_images_fit_in_five_megabytes(full: Statistics, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    places = rng.integers(0, len(full.images), 10_000)
    images = full.images.iloc[places].reset_index(drop=True)
    images["id"] = [f"ISIC_{place:07d}" for place in range(len(images))]
    images["width"] = rng.integers(500, 6000, len(images))
    for name in ("hair", "L* mean", "ita"):
        images[name] = rng.random(len(images)) * 90
    many = replace(
        full,
        samples=tuple(full.samples[place] for place in places),
        images=images,
        pixels=full.pixels.iloc[places].reset_index(drop=True),
        failures=full.failures * 3000,
    )
    message = "is much like another image, as its fingerprint shows, which differs in 2 of 64 bits"
    all_findings = [
        findings.make("duplicate", id, "isic2018", Path("images") / f"{id}.jpg", message, Path("images/other.jpg"))
        for id in images["id"]
    ]
    written = data.write(many, all_findings, tmp_path)
    assert written.stat().st_size < 5e6
    assert "The first 1,000; findings.csv has them all." in Page(written).text
    assert len(pd.read_csv(tmp_path / "findings.csv")) == 10_000


def test_a_folder_that_cannot_be_written(full: Statistics, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="file cannot be made a folder"):
        data.write(replace(full, images=full.images[:0], pixels=full.pixels[:0]), None, tmp_path / "file")


def test_samples_come_from_all_sources_and_size_classes(full: Statistics) -> None:
    tiles = lesion_tiles(full, tiles=4)
    assert len(tiles) == 4
    assert {tile.caption.split(" ")[0] for tile in tiles} == {"isic2018", "ph2"}
    assert [tile.name for tile in tiles] == [tile.name for tile in lesion_tiles(full, tiles=4)]
    assert {tile.name for tile in lesion_tiles(full, seed=1)} == set(full.images["id"]) - {"broken"}


def test_a_sample_that_is_gone_is_left_out(full: Statistics, tmp_path: Path) -> None:
    gone = tuple(replace(sample, image=tmp_path / "gone.png") for sample in full.samples)
    assert lesion_tiles(replace(full, samples=gone)) == []


def test_sentences_give_the_numbers(tmp_path: Path) -> None:
    images = pd.DataFrame(
        {"id": ["a", "b", "a", "c"], "source": ["one", "one", "two", "two"], "group": ["g", "g", "a", "c"]}
    ).assign(width=10, height=10, split=["train", "train", "test", "test"], attribute_split="train", tone="light")
    images = images.assign(hair=[0.02, 0, 0, 0], vignette=0.0, **{f"{name} mean": 50.0 for name in ("L*", "b*")})
    images["a* mean"] = [10.0, 12.0, 20.0, 24.0]
    pixels = pd.DataFrame(
        {LESION: [2.0, 20, 40, np.nan], "streaks": [0, 3, np.nan, np.nan], "globules": [1.0, 1, *[np.nan] * 2]}
    )
    sentences = "\n".join(stands_out(Statistics((), images, pixels, (), ""))).replace("\N{NO-BREAK SPACE}", " ")
    for words in (
        "1 image id in more than one data set",
        "1 image id on more than one side of the split",
        "one shows 1 lesion or patient in 2 images",
        "1 image without a lesion mask",
        "more than 30 % of the image in 33.3 % of 3 images and less than 5 % in 33.3 %; the median is 20 %",
        "and 66.7 % lie between 10 and 40 %",
        "largest in two (median 40 %) and smallest in one (11 %)",
        "globules is seen in 100 % of images, streaks in 50 %; 0 % of 2 images show none",
        "a*: its mean is 11.0 in one and 22.0 in two",
        "light or very light in 100 % of 4 images and brown or dark in 0 %, estimated from uncalibrated images",
        "Hair covers more than 1 % of the image in 25 % of images, a vignette in 0 %",
    ):
        assert words in sentences


def test_a_subfolder_of_which_all_files_are_others_stays(tmp_path: Path) -> None:
    for name in ("worst/01_one.png", "worst/01_other.png"):
        with replacing(tmp_path, "report.html") as stage:
            (stage / "worst").mkdir()
            (stage / name).write_bytes(b"picture")
            (stage / "report.html").write_bytes(b"page")
    assert [path.name for path in (tmp_path / "worst").iterdir()] == ["01_other.png"]


def test_a_report_replaces_an_earlier_one_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "out"

    def report(*names: str) -> None:
        with replacing(folder, "report.html") as stage:
            for name in names:
                (stage / name).parent.mkdir(exist_ok=True)
                (stage / name).write_text("new")

    def there() -> set[str]:
        return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}

    report("report.html", "roc.png", "best/01_a.png", "best/100_a.png", "worst/01_a.png")
    own = {"report.pdf": False, "best/01_mine.png": True, "mine.pdf": True, "other.csv": True}
    for name in own:
        (folder / name).write_text("mine")
    report("report.html", "subgroups.csv", "best/01_b.png")
    kept = {name for name, stays in own.items() if stays}
    assert there() == {"report.html", "report.files.json", "subgroups.csv", "best/01_b.png", *kept}
    assert all((folder / name).read_text() == "mine" for name in kept)
    assert not (folder / "worst").exists()
    assert not list(folder.glob(".*"))


def test_a_report_that_fails_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("old")
    with pytest.raises(InputError, match="it broke"), replacing(tmp_path, "report.html") as stage:  # noqa: PT012
        (stage / "report.html").write_text("new")
        raise InputError("it broke")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "old"
    (tmp_path / "best").write_text("a file")
    with pytest.raises(InputError, match="best cannot be made a folder"), replacing(tmp_path, "report.html") as stage:  # noqa: PT012
        (stage / "best").mkdir()
        (stage / "best" / "01.png").write_text("new")
    assert (tmp_path / "best").read_text() == "a file"


@pytest.mark.parametrize("listed", ["no JSON", '{"a": 1}', '["../mine.txt", "/etc/nothing", 3, "a/../../mine.txt"]'])
def test_a_list_of_files_that_was_tampered_with_reaches_nowhere_else(tmp_path: Path, listed: str) -> None:
    mine, folder = tmp_path / "mine.txt", tmp_path / "out"
    mine.write_text("mine")
    folder.mkdir()
    (folder / "report.files.json").write_text(listed)
    with replacing(folder, "report.html") as stage:
        (stage / "report.html").write_text("new")
    assert mine.read_text() == "mine"
    assert json.loads((folder / "report.files.json").read_text()) == ["report.html", "report.pdf"]


def test_cells_are_readable() -> None:
    assert [number(value) for value in (12737, 0.123456, 1234.5, None, float("nan"), "a")] == [
        *("12,737", "0.123", "1,234", "–", "–", "a")
    ]
    assert str(Percent(0.23)) == "23.0\N{NO-BREAK SPACE}%"
    assert percent(0.23) == "23\N{NO-BREAK SPACE}%"
    assert percent(float("nan")) == str(Percent(float("nan"))) == "–"


def test_table_choices_are_in_order() -> None:
    table = Table("t", ("kind", "n"), [["b", 1], ["a", 2], ["b", 3]], filters=("kind",))
    assert table.choices("kind") == ["b", "a"]
    assert not table.is_wide
    differences = Table("t", ("B − A",), [[Signed("+0.012 [+0.004, +0.020]")], [None], [Signed("-0.2")]])
    assert differences.kinds == ["n"]
    assert [number(row[0]) for row in differences.rows] == ["+0.012 [+0.004, +0.020]", "–", "-0.2"]
