"""``dermseg data``, run as a user runs it, on drawn data sets."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.main import get_group
from typer.testing import CliRunner, Result

from dermseg import synthetic
from dermseg.cli.data import data as group
from dermseg.cli.main import app
from dermseg.data import splits
from dermseg.data.sources import DATA_SETS
from dermseg.imaging import read_mask

COUNT = 20


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twenty clean images with masks."""
    monkeypatch.setenv("DERMSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    synthetic.write_dataset(tmp_path / "mine", COUNT, seed=4, size=(96, 128))
    return tmp_path / "mine"


def run(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["data", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def invert(mask: Path) -> None:
    Image.fromarray(np.where(read_mask(mask), 0, 255).astype(np.uint8)).save(mask)


def test_every_command_has_an_example() -> None:
    commands = list(get_group(group).commands)
    assert commands == ["list", "download", "check", "stats", "split", "preview", "prepare"]
    for name in commands:
        shown = run(name, "--help").output
        assert f"dermseg data {name}" in shown


def test_list_names_every_data_set_and_its_licence() -> None:
    output = run("list").output
    for dataset in DATA_SETS:
        assert f"{dataset.name}: {dataset.title}" in output
        assert dataset.licence in output


def test_check_of_clean_data_finds_nothing(mine: Path) -> None:
    output = run("check", mine).output
    assert f"{COUNT} images in {mine}" in output
    assert "error" not in output
    assert [row for row in table(Path("data-check/findings.csv")) if row["severity"] != "note"] == []


def test_check_quarantines_and_mends_an_inverted_mask(mine: Path) -> None:
    mask = sorted((mine / "masks").iterdir())[3]
    was = read_mask(mask)
    invert(mask)
    broken = mask.read_bytes()
    result = run("check", mine, "--quarantine", "--fix", "corrected", "--output", "found", code=1)
    assert "inverted-mask" in result.output
    (row,) = [row for row in table(Path("found/findings.csv")) if row["severity"] == "error"]
    assert row["kind"] == "inverted-mask"
    assert Path(row["path"]) == mask
    assert [entry["id"] for entry in table(mine / "quarantine.csv")] == [mask.stem]
    assert mask.read_bytes() == broken
    np.testing.assert_array_equal(read_mask(Path("corrected") / "masks" / mask.name), was)
    again = run("check", mine, "--quarantine", code=1)
    assert f"error: {mine / 'quarantine.csv'} exists, and may have been edited" in again.output


def test_what_is_in_quarantine_is_neither_scored_nor_trained_on(mine: Path) -> None:
    ids = sorted(path.stem for path in (mine / "images").iterdir())
    (mine / "quarantine.csv").write_text(f"id,source\n{ids[0]},plain\n{ids[1]},plain\n")
    result = CliRunner().invoke(app, ["evaluate", "--data", str(mine), "--split", "all", "--no-report"])
    assert result.exit_code == 0, result.output
    assert f"2 of 2 images listed in {mine / 'quarantine.csv'} are left out" in result.output
    assert [row["id"] for row in table(Path("evaluation/all_metrics.csv"))] == ids[2:]
    rows = [(id, id, "tune" if number % 5 == 0 else "train") for number, id in enumerate(ids)]
    Path("mine.csv").write_text("id,group,split\n" + "".join(f"{','.join(row)}\n" for row in rows))
    kept = ["--set", "data.sources=[plain]", "--set", "input_size=32", "--set", "data.splits=mine.csv"]
    prepared = run("prepare", mine, *kept).output
    assert "15 images to train on and 3 to tune on are ready" in prepared


def test_a_list_elsewhere_may_be_given(mine: Path) -> None:
    ids = sorted(path.stem for path in (mine / "images").iterdir())
    Path("mine.csv").write_text(f"id,source\n{ids[5]},plain\n")
    arguments = ["evaluate", "--data", str(mine), "--split", "all", "--no-report", "--quarantine", "mine.csv"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert [row["id"] for row in table(Path("evaluation/all_metrics.csv"))] == [id for id in ids if id != ids[5]]


@pytest.mark.parametrize("method", ["random", "k-fold"])
def test_split_writes_tables_that_training_and_evaluation_take(mine: Path, method: str) -> None:
    output = run("split", mine, "--method", method, "--folds", "4", "--output", "made").output
    names = ["splits"] if method == "random" else [f"splits_fold{fold}" for fold in range(1, 5)]
    tested: list[str] = []
    for name in names:
        assert f"\n{name}\n" in output
        sides = splits.read(Path("made") / f"{name}.csv")
        assert set(sides.values()) == {"train", "tune", "test"}
        tested += [id for id, side in sides.items() if side == "test"]
        assert table(Path("made") / f"{name}_leaks.csv") == []
    assert len(tested) == len(set(tested)) == (2 if method == "random" else COUNT)
    arguments = ["evaluate", "--data", str(mine), "--split", "test", "--no-report", "--splits", f"made/{names[0]}.csv"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output


def test_split_replaces_no_table(mine: Path) -> None:
    run("split", mine)
    before = Path("data-split/splits.csv").read_bytes()
    result = CliRunner().invoke(app, ["data", "split", str(mine), "--seed", "1"])
    assert result.exit_code == 1
    assert "splits.csv exists, and may have been edited; rename or delete it first" in result.output
    assert Path("data-split/splits.csv").read_bytes() == before


def test_split_reports_what_leaks_into_another_data_set(mine: Path, tmp_path: Path) -> None:
    images = sorted((mine / "images").iterdir())
    for part in ("images", "masks"):
        (tmp_path / "other" / part).mkdir(parents=True)
    with Image.open(images[7]) as picture:
        picture.resize((160, 120)).save(tmp_path / "other" / "images" / "copy.png")
    Image.new("L", (160, 120)).save(tmp_path / "other" / "masks" / "copy.png")
    output = run("split", mine, "--against", "other").output
    assert "0 ids, 0 groups and 1 pairs of copies" in output
    (leak,) = table(Path("data-split/splits_leaks.csv"))
    assert (leak["one"], leak["other"], leak["kind"]) == (images[7].stem, "copy", "copy")
    assert leak["other_side"] == "all of other"


def test_a_mirror_image_is_a_copy(mine: Path) -> None:
    image = sorted((mine / "images").iterdir())[7]
    with Image.open(image) as picture:
        picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(mine / "images" / "mirrored.png")
    Image.fromarray(read_mask(mine / "masks" / image.name)[:, ::-1]).save(mine / "masks" / "mirrored.png")
    run("split", mine)
    sides = splits.read(Path("data-split/splits.csv"))
    assert sides[image.stem] == sides["mirrored"]


def test_own_sides_are_not_forgotten_silently(mine: Path) -> None:
    for number, image in enumerate(sorted((mine / "images").iterdir())):
        part = "test" if number < 5 else "train"
        for kind in ("images", "masks"):
            (mine / part / kind).mkdir(parents=True, exist_ok=True)
            (mine / kind / image.name).rename(mine / part / kind / image.name)
    for kind in ("images", "masks"):
        (mine / kind).rmdir()
    assert "the data have sides of their own, which this draw does not keep" in run("split", mine).output
    run("split", mine, "--method", "official", "--output", "official")
    tested = [row["id"] for row in table(Path("official/splits.csv")) if row["split"] == "test"]
    assert tested == sorted(path.stem for path in (mine / "test" / "images").iterdir())


def test_a_name_that_is_no_text_stops_nothing(mine: Path) -> None:
    name = os.fsdecode(b"bad\xff.png")
    for kind in ("images", "masks"):
        first = min((mine / kind).iterdir())
        first.rename(mine / kind / name)
    Image.fromarray(np.full((96, 128), 255, np.uint8)).save(mine / "masks" / name)
    run("check", mine)
    assert [row["id"] for row in table(Path("data-check/findings.csv")) if row["kind"] == "full-mask"] == ["bad\\udcff"]
    run("split", mine)
    run("stats", mine, "--no-check")


def test_corrected_masks_go_to_a_new_folder(mine: Path) -> None:
    invert(sorted((mine / "masks").iterdir())[3])
    result = run("check", mine, "--fix", mine, code=1)
    assert result.output.startswith("error: ")
    assert "inverted-mask" not in result.output  # said before anything is checked


def test_split_reports_on_a_table_that_is_there(mine: Path) -> None:
    ids = sorted(path.stem for path in (mine / "images").iterdir())
    shutil.copy(mine / "images" / f"{ids[0]}.png", mine / "images" / "twin.png")
    shutil.copy(mine / "masks" / f"{ids[0]}.png", mine / "masks" / "twin.png")
    rows = [(id, id, "train") for id in ids] + [("twin", "twin", "test")]
    Path("mine.csv").write_text("id,group,split\n" + "".join(f"{','.join(row)}\n" for row in rows))
    output = run("split", mine, "--table", "mine.csv", "--output", "made").output
    assert f"train ({COUNT} images) and test (1) share 0 ids, 0 groups and 1 pairs of copies" in output
    assert sorted(path.name for path in Path("made").iterdir()) == ["mine_balance.csv", "mine_leaks.csv"]


def test_split_keeps_copies_together_unless_told_not_to(mine: Path) -> None:
    for number, image in enumerate(sorted((mine / "images").iterdir())):
        shutil.copy(image, mine / "images" / f"twin{number}.png")
        shutil.copy(mine / "masks" / image.name, mine / "masks" / f"twin{number}.png")
    assert "share 0 ids, 0 groups and 0 pairs" in run("split", mine).output
    together = splits.read(Path("data-split/splits.csv"))
    for number, id in enumerate(sorted(id for id in together if not id.startswith("twin"))):
        assert together[id] == together[f"twin{number}"]
    run("split", mine, "--no-copies", "--output", "apart")
    apart = splits.read(Path("apart/splits.csv"))
    ids = sorted(id for id in apart if not id.startswith("twin"))
    assert any(apart[id] != apart[f"twin{number}"] for number, id in enumerate(ids))


def test_shares_that_are_no_numbers_are_a_sentence(mine: Path) -> None:
    result = run("split", mine, "--shares", "much,little", "--no-copies", code=1)
    assert "--shares is 'much,little'; expected three numbers such as 0.8,0.1,0.1" in result.output


def test_stats_writes_a_page_with_the_findings(mine: Path) -> None:
    invert(sorted((mine / "masks").iterdir())[3])
    output = run("stats", mine, "--output", "report").output
    assert output.strip().endswith("report/index.html")
    page = Path("report/index.html").read_text(encoding="utf-8")
    assert "Data in mine" in page
    assert "inverted-mask" in page


def test_preview_draws_each_image_and_its_changes(mine: Path) -> None:
    options = ["--set", "data.sources=[plain]", "--set", "input_size=64", "--count", "2", "--variants", "3"]
    run("preview", mine, *options, "--output", "seen.png")
    with Image.open("seen.png") as picture:
        width, height = picture.size
    assert width > height
    run("preview", mine, *options, "--output", "again.png")
    assert Path("seen.png").read_bytes() == Path("again.png").read_bytes()
    run("preview", mine, *options, "--seed", "5", "--output", "other.png")
    assert Path("seen.png").read_bytes() != Path("other.png").read_bytes()


def test_no_command_but_training_loads_torch(mine: Path) -> None:
    script = (
        "import sys; from dermseg.cli.main import app\n"
        "for line in (['list'], ['check', 'mine'], ['split', 'mine'], ['stats', 'mine', '--no-check']):\n"
        "    try: app(['data', *line])\n"
        "    except SystemExit as end: assert not end.code, line\n"
        "assert not {'torch', 'lightning', 'transformers'} & set(sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=mine.parent, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
