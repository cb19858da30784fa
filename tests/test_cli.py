"""The command line, run as a user runs it."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import dermseg
from dermseg import __version__, synthetic
from dermseg.bundle import CARD, Bundle, shipped_bundles, write
from dermseg.card import model_card
from dermseg.cli.main import COMMANDS, GROUPS, app
from dermseg.cli.segment import plan, table
from dermseg.data import catalog, splits
from dermseg.errors import SHOWN, InputError
from dermseg.imaging import read_mask
from dermseg.manifest import ONNX, WEIGHTS
from dermseg.metrics import Confusion
from dermseg.models import build
from dermseg.presence import Curve, PresenceModel
from dermseg.segmenter import Segmenter
from dermseg.training.config import AugmentationConfig, Recipe
from dermseg.training.recipes import load_recipe, shipped
from dermseg.training.run import shortened
from tests.conftest import Cli
from tests.hostile import HOSTILE, Decodes, Fails
from tests.service import two_classes


@pytest.fixture
def photos(tmp_path: Path, example_file: Path) -> Path:
    """Two photographs and a text in a folder, a third photograph below it."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name in ("a.png", "B.PNG", "more/c.png"):
        shutil.copy(example_file, folder / name)
    (folder / "notes.txt").write_text("not an image")
    return folder


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# What is done with which file


def test_plan_takes_files_folders_and_globs(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    a, b, c, out = Path("photos/a.png"), Path("photos/B.PNG"), Path("photos/more/c.png"), Path("out")
    assert plan(["photos/a.png"], out, False) == {a: out}
    assert plan(["photos"], out, False) == {a: out, b: out}
    assert plan(["photos/*.png"], out, False) == {a: out}
    assert plan(["photos/**/*.png"], out, False) == {a: out, c: out}
    assert plan(["photos"], out, True) == {a: out, b: out, c: out / "more"}
    assert plan(["photos", "photos/a.png", "photos/more"], out, False) == {a: out, b: out, c: out}


def test_several_classes_are_printed_as_a_table(
    cli: Cli, example_file: Path, dark_bundle: Bundle, tmp_path: Path
) -> None:
    two = two_classes(dark_bundle, tmp_path)
    curves = {"bright": Curve(slope=0.5, bias=-1)}
    files = {name: two.read(name) for name in two.manifest.hashes}
    write(two.path, two.manifest.model_copy(update={"presence": PresenceModel(curves=curves)}), files)
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for name in ("a.png", "more/b.png"):
        shutil.copy(example_file, tmp_path / "photos" / name)
    options = ("--bundle", two.path, "--save", "mask,json", "-o", "out")
    done = cli("segment", "photos", "--recursive", *options)
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "out" / "a.json").read_text())["classes"]
    share, presence = told[1]["area_fraction"], told[1]["presence"]
    assert told[0]["presence"] is None
    head, first, second, last = done.stdout.splitlines()
    assert head.split() == ["area", "(presence)", "lesion", "bright"]
    cells = f"a.png {100 * told[0]['area_fraction']:.1f} % {100 * share:.1f} % ({presence:.2f})"
    assert first.split() == cells.split()
    assert second.split()[1:] == first.split()[1:]
    assert second.startswith("more/b.png ")
    assert last == "2 images: mask, json in out"
    names = ["a.json", "a_bright_mask.png", "a_lesion_mask.png", "more"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert "area" not in cli("segment", "photos", *options, "--json").stdout.splitlines()[0][:10]
    for number in range(12):
        (tmp_path / "photos" / f"{number}.png").symlink_to(example_file)
    lines = cli("segment", "photos", *options).stdout.splitlines()
    assert len(lines) == 1 + SHOWN + 2
    assert lines[-2] == "and 3 more images; --save json tells of all"
    assert lines[1].startswith("0.png "), "a link has its own name"


def test_one_image_s_class_is_not_another_s(tmp_path: Path) -> None:
    for name in ("x.png", "x_pigment.png"):
        (tmp_path / name).touch()
    endings = ["_network_mask.png", "_pigment_network_mask.png"]
    with pytest.raises(InputError, match=r"would both be written to .*x_pigment_network_mask\.png; rename one"):
        plan([str(tmp_path / "x.png"), str(tmp_path / "x_pigment.png")], tmp_path / "out", False, endings)


def test_a_mask_of_a_class_that_would_replace_an_input_is_refused(
    cli: Cli, example_file: Path, dark_bundle: Bundle, tmp_path: Path
) -> None:
    two = two_classes(dark_bundle, tmp_path)
    for name in ("a.png", "a_bright_mask.png"):
        shutil.copy(example_file, tmp_path / name)
    done = cli("segment", "a.png", "a_bright_mask.png", "--bundle", two.path, "-o", ".")
    assert done.returncode == 1
    assert "error: the bright mask of a.png would replace the input a_bright_mask.png" in done.stderr


def test_plan_keeps_files_that_do_not_exist_for_the_report(tmp_path: Path) -> None:
    assert plan([str(tmp_path / "none.png")], tmp_path, False) == {tmp_path / "none.png": tmp_path}


def test_plan_takes_a_file_whose_name_looks_like_a_glob(photos: Path) -> None:
    odd = photos / "a[1].png"
    shutil.copy(photos / "a.png", odd)
    assert plan([str(odd)], photos / "out", False) == {odd: photos / "out"}


@pytest.mark.parametrize("pattern", ["*.jpg", "nothing?", "mor[e]"])
def test_plan_refuses_a_glob_without_files(photos: Path, pattern: str) -> None:
    with pytest.raises(InputError) as caught:
        plan([str(photos / pattern)], photos / "out", False)
    assert str(caught.value) == f"no file matches {str(photos / pattern)!r}"


def test_plan_refuses_a_folder_without_images(tmp_path: Path, photos: Path) -> None:
    (photos / "a.png").unlink()
    (photos / "B.PNG").unlink()
    message = (
        f"{photos} holds no image (.bmp, .jpeg, .jpg, .png, .tif, .tiff, .webp); --recursive looks into subfolders"
    )
    with pytest.raises(InputError) as caught:
        plan([str(photos)], tmp_path, False)
    assert str(caught.value) == message
    (photos / "more" / "c.png").unlink()
    with pytest.raises(InputError) as caught:
        plan([str(photos)], tmp_path, True)
    assert str(caught.value) == message.partition(";")[0]


@pytest.mark.parametrize("second", ["more/a.png", "more/A.jpg", "a.jpeg"])
def test_plan_refuses_two_images_with_one_result(photos: Path, second: str) -> None:
    first, out = photos / "a.png", photos / "out"
    (photos / second).write_bytes(b"x")
    with pytest.raises(InputError, match="rename one of them") as caught:
        plan([str(first), str(photos / second)], out, False)
    stem = (photos / second).stem
    expected = f"{first} and {photos / second} would both be written to {out / stem}_*; rename one of them"
    assert str(caught.value) == expected


def test_plan_keeps_one_name_in_two_folders_apart(photos: Path) -> None:
    shutil.copy(photos / "a.png", photos / "more" / "a.png")
    jobs = plan([str(photos)], photos / "out", True)
    assert jobs[photos / "a.png"] == photos / "out"
    assert jobs[photos / "more" / "a.png"] == photos / "out" / "more"


@pytest.mark.parametrize("kind", ["mask", "overlay", "result", "probability"])
@pytest.mark.parametrize("way", ["same", "absolute", "dots"])
def test_plan_refuses_to_replace_an_input(photos: Path, kind: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos.parent)
    shutil.copy(photos / "a.png", photos / f"a_{kind}.png")
    output = {"same": Path("photos"), "absolute": photos, "dots": Path("photos/more/..")}[way]
    with pytest.raises(InputError) as caught:
        plan(["photos"], output, False)
    assert str(caught.value) == (
        f"the {kind} of photos/a.png would replace the input {output}/a_{kind}.png; choose another --output"
    )


def test_plan_takes_no_results_of_an_earlier_run(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    expected = plan(["."], Path("out"), True)
    assert {path.name for path in expected} == {"a.png", "B.PNG", "c.png"}
    (photos / "out" / "more").mkdir(parents=True)
    for name in ("out/a_mask.png", "out/more/c_mask.png"):
        shutil.copy(photos / "a.png", photos / name)
    assert plan(["."], Path("out"), True) == expected
    assert len(plan(["out"], Path("out"), False)) == 1


# segment


def test_segment_writes_the_mask_that_python_gives(cli: Cli, example_file: Path, tmp_path: Path) -> None:
    result = cli("segment", example_file)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "1 image: mask, overlay in dermseg-output\n"
    assert names(tmp_path) == {"dermseg-output/lesion_mask.png", "dermseg-output/lesion_overlay.png"}
    mask = read_mask(tmp_path / "dermseg-output" / "lesion_mask.png")
    np.testing.assert_array_equal(mask, Segmenter()(example_file).mask)


def test_segment_goes_through_a_folder_with_all_its_options(
    cli: Cli, photos: Path, tmp_path: Path, dark_bundle: Bundle
) -> None:
    options = ["--output", "deep/out", "--save", "mask,json", "--bundle", dark_bundle.path, "--threshold", "0.9"]
    result = cli("segment", "photos", "--recursive", "--workers", "2", "--orientation", "stored", *options)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "3 images: mask, json in deep/out\n"
    stems = ("a", "B", "more/c")
    assert names(tmp_path / "deep" / "out") == {f"{stem}{end}" for stem in stems for end in ("_mask.png", ".json")}
    told = json.loads((tmp_path / "deep" / "out" / "more" / "c.json").read_text())
    assert (told["bundle"], told["classes"][0]["threshold"], told["orientation"]) == ("dark", 0.9, "stored")
    expected = Segmenter(dark_bundle, threshold=0.9)(photos / "a.png").mask
    np.testing.assert_array_equal(read_mask(tmp_path / "deep" / "out" / "B_mask.png"), expected)


def test_a_folder_of_hostile_files_is_done_to_its_end(
    cli: Cli, example_file: Path, tmp_path: Path, dark_bundle: Bundle
) -> None:
    (folder := tmp_path / "photos").mkdir()
    for name, (make, _) in HOSTILE.items():
        (folder / f"{name}.png").write_bytes(make())
    for name in ("good-1", "good-2"):
        shutil.copy(example_file, folder / f"{name}.png")
    failing = {f"{name}.png": outcome for name, (_, outcome) in HOSTILE.items() if isinstance(outcome, Fails)}
    fine = {f"{name}.png": outcome.size for name, (_, outcome) in HOSTILE.items() if isinstance(outcome, Decodes)}
    fine |= {"good-1.png": (192, 256), "good-2.png": (192, 256)}
    assert len(failing) > 20
    assert len(fine) > 20

    result = cli("segment", folder, "--bundle", dark_bundle.path, "--output", "out", "--save", "mask", "--json")
    assert result.returncode == 1
    assert "Traceback" not in result.stdout + result.stderr
    assert "Warning" not in result.stdout + result.stderr

    masks = {path.name: read_mask(path).shape for path in (tmp_path / "out").iterdir()}
    assert masks == {name.replace(".png", "_mask.png"): size for name, size in fine.items()}

    *errors, summary = result.stderr.splitlines()
    assert summary == f"{len(failing)} of {len(failing) + len(fine)} images failed"
    assert len(errors) == len(failing)
    for line, name in zip(errors, sorted(failing), strict=True):
        assert line.startswith(f"error: {folder / name} ")
        assert failing[name].message in line
        assert line.count(name) == 1

    told = [json.loads(line) for line in result.stdout.splitlines()]
    assert [Path(one["path"]).name for one in told] == sorted([*failing, *fine])
    for one in told:
        name = Path(one["path"]).name
        if name in failing:
            assert one.keys() == {"path", "error"}
            assert failing[name].message in one["error"]
        else:
            assert (one["height"], one["width"]) == fine[name]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.png"], "none.png does not exist; give the path of a JPEG, PNG, BMP, TIFF or WebP picture"),
        (["*.gif"], "no file matches '*.gif'"),
        (
            ["photos", "--save", "mask,masks"],
            "there is no output 'masks'; choose from: mask, overlay, result, probability, uncertainty, json",
        ),
        (["photos", "--threshold", "1.5"], "the threshold is 1.5; expected a probability between 0 and 1"),
        (["photos", "--max-megapixels", "0"], "max_megapixels is 0.0; expected a number above 0"),
        (
            ["photos", "photos/more/a.png", "--output", "out"],
            "photos/a.png and photos/more/a.png would both be written to out/a_*; rename one of them",
        ),
        (
            ["photos/a.png", "a_mask.png", "--output", "."],
            "the mask of photos/a.png would replace the input a_mask.png; choose another --output",
        ),
        (
            ["photos", "--output", "photos/notes.txt"],
            "photos/notes.txt cannot be made a folder (File exists); give another path",
        ),
    ],
    ids=["missing", "glob", "save", "threshold", "megapixels", "duplicate", "replace", "output"],
)
def test_a_mistake_is_told_in_one_sentence_before_anything_is_written(
    cli: Cli, photos: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    for copy in (photos / "more" / "a.png", tmp_path / "a_mask.png"):
        shutil.copy(photos / "a.png", copy)
    before = names(tmp_path)
    result = cli("segment", *arguments)
    assert (result.returncode, result.stdout, result.stderr) == (1, "", f"error: {message}\n")
    assert names(tmp_path) == before


def test_an_unknown_bundle_is_answered_with_the_shipped_ones_and_with_debug_a_traceback(cli: Cli, photos: Path) -> None:
    shipped = ", ".join(bundle.name for bundle in shipped_bundles())
    message = f"there is no bundle 'nope'; give a folder, a zip or one of: {shipped}"
    plain, debug = (cli(*flags, "segment", "photos", "--bundle", "nope") for flags in ([], ["--debug"]))
    assert (plain.returncode, plain.stderr) == (1, f"error: {message}\n")
    assert debug.returncode == 1
    assert debug.stderr.startswith("Traceback")
    assert debug.stderr.endswith(f"dermseg.errors.BundleError: {message}\n")


def test_a_name_with_odd_characters_stays_one_line(cli: Cli, tmp_path: Path, dark_bundle: Bundle) -> None:
    for name in ("line\nbreak.png", "na\u00efve \u76ae\u819a.png"):
        (tmp_path / name).write_bytes(b"")
    result = cli("segment", ".", "--bundle", dark_bundle.path)
    assert result.returncode == 1
    *errors, _ = result.stderr.splitlines()
    assert len(errors) == 2
    assert errors[0].startswith(r"error: 'line\nbreak.png'")
    assert errors[1].startswith("error: na\u00efve \u76ae\u819a.png is empty")


@pytest.mark.parametrize(
    "arguments", [["segment"], ["segment", "a.png", "--nope"], ["paint"], ["segment", "a", "--workers", "0"]]
)
def test_wrong_usage_ends_with_2(cli: Cli, arguments: list[str]) -> None:
    result = cli(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert "Usage: " in result.stderr


# Help


def test_version(cli: Cli) -> None:
    result = cli("--version")
    assert (result.returncode, result.stdout, result.stderr) == (0, f"dermseg {__version__}\n", "")


def test_help_lists_the_commands(cli: Cli) -> None:
    result = cli("--help")
    assert result.returncode == 0
    assert "not a medical device" in " ".join(result.stdout.split())
    for name in (*(command.__name__ for command in COMMANDS), *(group.info.name for group in GROUPS)):
        assert f" {name} " in result.stdout


def test_help_of_segment_shows_its_options_and_examples(cli: Cli) -> None:
    result = cli("segment", "-h")
    assert result.returncode == 0
    for part in ("--output", "--threshold", "--recursive", "--json", "Examples", "dermseg segment lesion.jpg"):
        assert part in result.stdout


# evaluate and bundles


def test_evaluate_scores_a_data_set_and_records_it(cli: Cli, tmp_path: Path, dark_bundle: Bundle) -> None:
    synthetic.write_dataset(tmp_path / "data", 5, size=(64, 96))
    folder = shutil.copytree(dark_bundle.path, tmp_path / "bundle")
    arguments = ["--bundle", folder, "--data", "data", "--split", "all", "--output", "scores", "--no-report"]
    result = cli("evaluate", *arguments, "--record")
    assert result.returncode == 0, result.stderr
    assert names(tmp_path / "scores") == {"all_metrics.csv", "result.json"}

    segmenter, samples = Segmenter(dark_bundle, threads=1), catalog.read(tmp_path / "data")
    expected = {
        s.id: Confusion.of(segmenter(s.image).mask, read_mask(s.masks["lesion"])).scores()["jaccard"] for s in samples
    }
    with (tmp_path / "scores" / "all_metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["id"]: float(row["jaccard"]) for row in rows} == pytest.approx(expected)
    assert len(rows) == 5

    document = json.loads((tmp_path / "scores" / "result.json").read_text())
    mean = float(np.mean(list(expected.values())))
    assert document["protocols"]["official"]["summaries"]["plain"]["metrics"]["jaccard"]["mean"] == pytest.approx(mean)
    assert document["failures"] == []
    (row,) = [line.split() for line in result.stdout.splitlines() if line.startswith("jaccard ")]
    assert row[1] == f"{mean:.3f}"

    recorded = Bundle.load(folder)
    (score,) = recorded.manifest.scores
    assert (score.data, score.split, score.images) == ("plain", "all", 5)
    assert score.metrics["jaccard"].mean == pytest.approx(mean)
    assert (folder / CARD).read_text() == model_card(recorded.manifest)
    recorded.verify()

    # A result with failures is told and written, but not recorded.
    (tmp_path / "data" / "images" / "synthetic_00002.png").write_bytes(b"")
    broken = cli("evaluate", *arguments, "--record")
    assert broken.returncode == 1
    assert "not scored, and in no mean: 1" in broken.stdout
    assert "not recorded in the bundle: a score counts only over all images" in broken.stderr
    assert json.loads((tmp_path / "scores" / "result.json").read_text())["failures"][0]["id"] == "synthetic_00002"
    assert Bundle.load(folder) == recorded


def test_evaluate_refuses_what_it_could_not_finish(cli: Cli, tmp_path: Path, dark_bundle: Bundle) -> None:
    synthetic.write_dataset(tmp_path / "data", 1, size=(64, 96))
    zipped = dark_bundle.pack(tmp_path / "dark.zip")
    (tmp_path / "taken").write_text("mine")
    for options, message in (
        (["--record"], f"{zipped} is a zip; scores can be recorded in a bundle's folder only"),
        (["--output", "taken"], "taken cannot be made a folder (File exists); give another path"),
        (
            ["--record", "--threshold", "0.4"],
            "--record keeps the scores of the bundle as it is; it goes without --threshold",
        ),
    ):
        result = cli("evaluate", "--data", "data", "--split", "all", "--bundle", zipped, *options)
        assert (result.returncode, result.stdout, result.stderr) == (1, "", f"error: {message}\n")
    assert not (tmp_path / "evaluation").exists()


@pytest.mark.parametrize("stem", [os.fsdecode(b"\xff broken"), "a" * 248])
def test_no_name_of_a_file_costs_the_scores(
    cli: Cli, tmp_path: Path, dark_bundle: Bundle, stem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    synthetic.write_dataset(tmp_path / "data", 3, size=(64, 96))
    for kind in ("images", "masks"):
        first = min((tmp_path / "data" / kind).iterdir())
        first.rename(first.with_stem(stem))
    arguments = ["--data", "data", "--split", "all", "--protocol", "official"]
    result = cli("evaluate", *arguments, "--bundle", dark_bundle.path)
    assert result.returncode == 0, result.stderr
    assert {"report.html", "all_metrics.csv", "result.json"} <= names(tmp_path / "evaluation")
    (tmp_path / "data" / "images" / f"{stem}.png").write_bytes(b"")  # now it is among the failures
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8:strict")
    for command, subjects in (("evaluate", ["--bundle", dark_bundle.path]), ("compare", [dark_bundle.path] * 2)):
        result = cli(command, *subjects, *arguments, "--no-report", "--output", command)
        assert result.returncode == 1
        assert "Traceback" not in result.stderr
        assert any(name.endswith(".json") for name in names(tmp_path / command))


def test_a_report_that_cannot_be_written_costs_no_scores(cli: Cli, tmp_path: Path, dark_bundle: Bundle) -> None:
    synthetic.write_dataset(tmp_path / "data", 2, size=(64, 96))
    (tmp_path / "out" / "report.html").mkdir(parents=True)
    arguments = ["--bundle", dark_bundle.path, "--data", "data", "--split", "all", "--output", "out"]
    result = cli("evaluate", *arguments)
    assert result.returncode == 1
    assert "jaccard" in result.stdout
    assert result.stderr.splitlines()[-1].startswith("error: ")


def test_a_path_that_the_system_refuses_is_one_sentence(cli: Cli, tmp_path: Path, dark_bundle: Bundle) -> None:
    (tmp_path / "folder.png").mkdir()
    long = "a" * 300
    for arguments, named, reason in (
        (["example", "folder.png"], "folder.png", "Is a directory"),
        (["evaluate", "--data", long, "--split", "test"], long, "File name too long"),
        (["compare", long, dark_bundle.path, "--data", ".", "--split", "test"], long, "File name too long"),
    ):
        result = cli(*arguments)
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr.startswith("error: ")
        assert named in result.stderr
        assert result.stderr.endswith(f"cannot be used ({reason})\n")
        assert "Traceback" in cli("--debug", *arguments).stderr


def test_an_empty_argument_is_not_the_working_directory(cli: Cli, photos: Path) -> None:
    result = cli("segment", "")
    message = "an empty argument is no image; expected a file, a folder or a quoted glob"
    assert (result.returncode, result.stderr) == (1, f"error: {message}\n")


def test_a_full_output_is_one_sentence(cli: Cli, photos: Path) -> None:
    command = [sys.executable, "-m", "dermseg", "bundles"]
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    assert result.returncode != 0
    assert "error: the output or the working directory cannot be used (No space left on device)" in result.stderr


def test_the_folder_of_results_may_hold_other_things(cli: Cli, tmp_path: Path, dark_bundle: Bundle) -> None:
    synthetic.write_dataset(tmp_path / "data", 1, size=(64, 96))
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / ".dermseg").write_text("mine")
    arguments = ["--bundle", dark_bundle.path, "--data", "data", "--split", "all", "--output", "scores", "--no-report"]
    assert cli("evaluate", *arguments).returncode == 0
    assert (tmp_path / "scores" / ".dermseg").read_text() == "mine"


def test_a_bundle_is_scored_by_the_table_it_was_trained_by(cli: Cli, tmp_path: Path, dark_bundle: Bundle) -> None:
    synthetic.write_dataset(tmp_path / "data", 4, size=(64, 96))
    for name, sides in (("own", ("train", "test")), ("other", ("test", "train"))):
        rows = [f"synthetic_{number:05d},group{number},{sides[number % 2]}" for number in range(4)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["id,group,split", *rows]) + "\n")
    own = splits.fingerprint(splits.read(tmp_path / "own.csv"))
    changes = {"sources": {"plain": 2}, "licences": {"plain": "not stated"}}
    for name, known in (("dark", own), ("older", None)):
        data = dark_bundle.manifest.training_data.model_copy(update={**changes, "splits_hash": known})
        manifest = dark_bundle.manifest.model_copy(update={"name": name, "training_data": data})
        write(tmp_path / name, manifest, {name: dark_bundle.read(name) for name in (ONNX, WEIGHTS)})

    def run(command: str, *arguments: str) -> tuple[int, list[str]]:
        """The exit code, and the lines on the error stream that tell of a table."""
        result = cli(*command.split(), "--data", "data", *arguments)
        return result.returncode, [line for line in result.stderr.splitlines() if "splits" in line]

    other, test = ("--splits", "other.csv"), ("--split", "test", "--no-report")
    note = (
        "note: dark may have been trained on images of test: it was trained by another table of splits; take that "
        "(--splits TABLE; the shipped without)"
    )
    assert run("evaluate --bundle dark", *test, *other) == (0, [note])
    assert run("evaluate --ensemble dark,older", *test, *other) == (0, [note])
    assert run("compare dark dark", *test, *other) == (0, [note])
    sentence = "dark may have been trained on images of test: it was trained by another table of splits."
    assert json.loads((tmp_path / "evaluation" / "result.json").read_text())["remarks"] == [sentence]
    assert json.loads((tmp_path / "comparison" / "comparison.json").read_text())["notes"][-2:] == [
        f"A: {sentence}",
        f"B: {sentence}",
    ]
    assert run("evaluate --bundle dark --split test", *other) == (0, [note])
    assert (tmp_path / "evaluation" / "report.html").read_text().count(sentence) == 1
    assert run("evaluate --bundle older", *test, *other) == (0, [])
    assert json.loads((tmp_path / "evaluation" / "result.json").read_text())["remarks"] == []
    assert run("evaluate --bundle dark", *test, "--splits", "own.csv") == (0, [])
    assert run("evaluate --bundle dark", "--split", "all", "--no-report", *other) == (0, [])
    for name, options, used in (
        ("dark", other, "other.csv"),
        ("older", other, "other.csv"),
        ("dark", (), "the shipped one"),
    ):
        assert run(f"evaluate --bundle {name} --record --no-report --split all", *options) == (
            1,
            [
                f"error: --record keeps scores by the table of splits that {name} was trained by, and {used} is not "
                "known to be that; take it (--splits TABLE; the shipped without)"
            ],
        )
    assert run("calibrate dark --output calibrated --split train", *other) == (
        1,
        [f"error: dark cannot be calibrated by this table: {note.partition(': ')[2].partition(': ')[2]}"],
    )
    assert not (tmp_path / "calibrated").exists()
    assert Bundle.load(tmp_path / "dark").manifest.scores == ()
    assert run("evaluate --bundle dark --record", *test, "--splits", "own.csv") == (0, [])
    assert [score.images for score in Bundle.load(tmp_path / "dark").manifest.scores] == [2]
    assert "--data DATA --split test --splits TABLE --record`" in (tmp_path / "dark" / CARD).read_text()


def test_bundles_lists_what_is_shipped(cli: Cli) -> None:
    shown, told = cli("bundles"), cli("bundles", "--json")
    assert (shown.returncode, told.returncode) == (0, 0)
    assert json.loads(told.stdout) == [bundle.manifest.model_dump(mode="json") for bundle in shipped_bundles()]
    for bundle in shipped_bundles():
        assert f"{bundle.name}: {bundle.manifest.description}" in shown.stdout
        assert f"licence         {bundle.manifest.licence} (weights)" in shown.stdout


def test_bundles_show_prints_the_card_of_the_shipped_bundle(tmp_path: Path) -> None:
    shipped = Bundle.load()
    zipped = shipped.pack(tmp_path / "packed.zip")
    for given in ([], [shipped.name], [str(shipped.path)], [str(zipped)], ["--plain"]):
        result = CliRunner().invoke(app, ["bundles", "show", *given])
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout == (shipped.path / CARD).read_text(encoding="utf-8")


def on_a_terminal(*arguments: str) -> str:
    """What ``dermseg ARGUMENTS`` shows on a terminal of 300 columns."""
    ours, its = os.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "300"}
    command = [sys.executable, "-m", "dermseg", *arguments]
    with subprocess.Popen(command, stdin=its, stdout=its, stderr=its, env=environment) as process:
        os.close(its)
        shown = b""
        with os.fdopen(ours, "rb", buffering=0) as terminal, suppress(OSError):  # EIO is a terminal's end
            while part := terminal.read(4096):
                shown += part
    assert process.returncode == 0
    return shown.decode().replace("\r\n", "\n")


def test_bundles_show_lays_the_card_out_on_a_terminal() -> None:
    laid_out = on_a_terminal("bundles", "show")
    assert "\x1b[" in laid_out
    for mark in ("## ", "**", "|---|"):
        assert mark not in laid_out
    for words in ("Training data", "CC-BY-NC-4.0", "not a medical device"):
        assert words in laid_out
    assert on_a_terminal("bundles", "show", "--plain") == model_card(Bundle.load().manifest)


NOTES = """\ufeff# Notes on this bundle

## Intended use

Research on *dermoscopy*.

## How to reproduce

```sh
## in one go
dermseg train lesion --data DATA
```

## Limits

Photographs with ink fail.
"""


def test_notes_are_written_into_a_bundle_and_shown(
    tmp_path: Path, dark_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bundles(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["bundles", *arguments])
        assert (result.exit_code, result.stderr) == (0, "")
        return result.stdout

    monkeypatch.chdir(tmp_path)
    folder = Path(shutil.copytree(dark_bundle.path, "bundle"))
    Path("notes.md").write_text(NOTES, encoding="utf-8")
    assert bundles("annotate", "bundle", "notes.md") == f"bundle/{CARD}\n"
    shown = bundles("show", "bundle")
    assert shown == (folder / CARD).read_text(encoding="utf-8")
    headings = [line for line in shown.splitlines() if line.startswith("## ")]
    assert headings == [
        *("## Training data", "## Scores", "## Intended use", "## How to reproduce", "## in one go", "## Limits")
    ]
    manifest = Bundle.load(folder).manifest
    assert json.loads(bundles("show", "bundle", "--json")) == manifest.model_dump(mode="json")
    assert list(manifest.notes) == ["Intended use", "How to reproduce", "Limits"]
    Path("notes.md").write_text("")
    bundles("annotate", "bundle", "notes.md")
    assert Bundle.load(folder) == replace(dark_bundle, path=folder)
    assert (folder / CARD).read_bytes() == (dark_bundle.path / CARD).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "nope"], "there is no bundle 'nope'; give a folder, a zip or one of: "),
        (["annotate", "nope", "notes.md"], "there is no bundle 'nope'; give a folder, a zip or one of: "),
        (["annotate", "dark.zip", "notes.md"], "dark.zip is a zip; notes can be recorded in a bundle's folder only"),
        (
            ["annotate", "dark.zip", "none.md"],
            "none.md cannot be read (No such file or directory); give notes as a Markdown file in UTF-8",
        ),
        (
            ["annotate", "dark.zip", "latin.md"],
            "latin.md cannot be read (it is not UTF-8); give notes as a Markdown file in UTF-8",
        ),
        (
            ["annotate", "dark.zip", "text.md"],
            "the notes begin with 'For research.'; expected a heading '## Title' before any text",
        ),
    ],
)
def test_what_bundles_cannot_show_or_annotate_is_told_in_one_sentence(
    tmp_path: Path, dark_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    dark_bundle.pack(Path("dark.zip"))
    Path("notes.md").write_text(NOTES, encoding="utf-8")
    Path("latin.md").write_bytes("## Härte".encode("latin-1"))
    Path("text.md").write_text("\nFor research.\n\n## Intended use\n")
    result = CliRunner().invoke(app, ["bundles", *arguments])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: {message}")
    assert len(result.stderr.splitlines()) == 1


def test_bundles_and_recipes_load_nothing_heavy() -> None:
    for arguments in (["bundles"], ["bundles", "show"], ["recipes"], ["recipes", "show", "unet"], ["train", "--help"]):
        code = (
            f"import sys; from dermseg.cli import main; sys.argv[1:] = {arguments}\n"
            "try: main()\n"
            "except SystemExit: sys.exit('torch' in sys.modules or 'lightning' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, (arguments, done.stderr)


# recipes


def test_recipes_lists_each_with_its_parameters_and_figures(cli: Cli) -> None:
    shown, told = cli("recipes"), cli("recipes", "--json")
    assert (shown.returncode, told.returncode, shown.stderr) == (0, 0, "")
    *lines, note = shown.stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(shipped())
    assert (
        "ds-attention-unet            3.4 M  dice 0.8356, jaccard 0.7397, precision 0.806, sensitivity 0.922" in lines
    )
    assert next(line for line in lines if line.startswith("mask2former")).endswith("47.4 M  no figures")
    assert "dermseg recipes show NAME" in note
    described = {one["name"]: one for one in json.loads(told.stdout)}
    assert list(described) == list(shipped())
    assert described["unet"]["figures"] == {"dice": 0.8149}
    assert described["unet"]["protocol"]


def test_recipes_show_prints_the_file(cli: Cli) -> None:
    result = cli("recipes", "show", "swin-upernet")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == shipped()["swin-upernet"].read_text(encoding="utf-8")
    unknown = cli("recipes", "show", "swin")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert unknown.stderr.startswith("error: there is no recipe or YAML file 'swin'")
    assert cli("recipes", "show").returncode == 2


# train


class Trained:
    """Stands in for ``dermseg.train`` and keeps what it was called with."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.recipe: Recipe
        self.data = self.output = Path()
        self.arguments: dict[str, Any] = {}

    def __call__(self, recipe: Recipe, data: Path, output: Path, **arguments: Any) -> Bundle:
        self.recipe, self.data, self.output, self.arguments = recipe, data, output, arguments
        return self.bundle


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, dark_bundle: Bundle, tmp_path: Path) -> Trained:
    stand_in = Trained(dark_bundle)
    monkeypatch.setattr(dermseg, "train", stand_in)
    monkeypatch.chdir(tmp_path)
    return stand_in


def train(*arguments: str) -> str:
    """Run ``dermseg train`` here; gives what it prints."""
    result = CliRunner().invoke(app, ["train", *arguments, "--data", "DATA"])
    assert result.exit_code == 0, result.output
    return result.output


def test_train_without_options_changes_nothing(trained: Trained) -> None:
    output = train("unet")
    assert trained.recipe == load_recipe("unet")
    assert trained.data == Path("DATA")
    assert trained.output.parent == Path("runs")
    name, _, when = trained.output.name.rpartition("_")
    assert name == "unet_adam_cosine_lr0.001"
    assert abs((datetime.now() - datetime.strptime(when, "%Y%m%d-%H%M%S")).total_seconds()) < 60
    report = trained.arguments.pop("report")
    assert callable(report)
    assert trained.arguments == {
        "resume": False,
        "device": "auto",
        "devices": 1,
        "nodes": 1,
        "debug": False,
        "find_lr": False,
        "tracking": "auto",
        "progress_bar": False,
    }
    path = trained.bundle.path
    assert f"{path}\n" in output
    assert f"next: dermseg evaluate --bundle {path} --data DATA --split test\n" in output


def test_what_is_scored_next_is_what_was_not_trained_on(trained: Trained) -> None:
    output = train("unet", "--set", "data.splits=own.csv", "--set", "data.quarantine=bad.csv")
    assert "--data DATA --split test --splits own.csv --quarantine bad.csv\n" in output


def test_the_example_replaces_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # its own file may be drawn again
        assert CliRunner().invoke(app, ["example", "lesion.png"]).exit_code == 0
    Path("mine.png").write_bytes(b"my own")
    for name, sentence in (
        ("mine.png", "mine.png exists and is another picture; give another name"),
        ("x.jpg", "x.jpg would be a PNG; give it a name that ends in .png"),
    ):
        result = CliRunner().invoke(app, ["example", name])
        assert (result.exit_code, result.stderr) == (1, f"error: {sentence}\n")
    assert Path("mine.png").read_bytes() == b"my own"


def test_a_table_shows_names_that_are_no_text(tmp_path: Path) -> None:
    told = {"name": "globules", "area_fraction": 0.5, "area_pixels": 9, "presence": None}
    _, line = table({tmp_path / os.fsdecode(b"caf\xe9.png"): [told]})
    assert "50.0 %" in line
    line.encode()  # as a terminal does


@pytest.mark.parametrize("name", ["x" * 300, "loop"])
def test_a_path_that_cannot_be_searched_is_one_sentence(cli: Cli, tmp_path: Path, name: str) -> None:
    (tmp_path / "loop").mkdir()
    (tmp_path / "loop" / "loop.png").symlink_to("loop.png")
    result = cli("segment", tmp_path / name)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("options", "place", "value"),
    [
        (["--epochs", "3"], "epochs", 3),
        (["--batch-size", "4"], "batch_size", 4),
        (["--batch_size", "4"], "batch_size", 4),
        (["--lr", "5e-4"], "optimizer.lr", 5e-4),
        (["--image-size", "64"], "input_size", 64),
        (["--img_size", "64"], "input_size", 64),
        (["--img-size", "64"], "input_size", 64),
        (["--loss", "focal_tversky"], "loss", {"focal_tversky": 1}),
        (["--no-augment"], "augmentation", AugmentationConfig.model_validate("none").model_dump()),
        (["--augment"], "augmentation", load_recipe("lesion").augmentation.model_dump()),
        (["--freeze", "encoder", "--freeze", "head"], "freeze", ("encoder", "head")),
        (["--no-deterministic"], "deterministic", False),
        (["--deterministic"], "deterministic", True),
        (["--compile"], "compile", True),
        (["--seed", "7"], "seed", 7),
        (["--set", "schedule.name=step", "--set", "schedule.step_size=3"], "schedule.step_size", 3),
        (["--epochs", "3", "--set", "epochs=5"], "epochs", 5),
    ],
)
def test_an_option_of_train_is_a_setting(trained: Trained, options: list[str], place: str, value: object) -> None:
    train("lesion", *options, "--output", "out")
    found: Any = trained.recipe.model_dump()
    for part in place.split("."):
        found = found[part]
    assert found == value
    assert trained.output == Path("out")


def test_train_begins_with_a_bundle_by_name_or_path(trained: Trained) -> None:
    train("lesion", "--init", "lesion")
    assert trained.recipe.start == "lesion"
    train("lesion", "--init", str(trained.bundle.path))
    assert trained.recipe.start == str(trained.bundle.path)


def test_train_passes_on_how_to_run(trained: Trained) -> None:
    many = ["--devices", "2", "--nodes", "3", "--device", "cpu", "--tracking", "off", "--output", "out"]
    train("unet", "--debug", "--find-lr", *many)
    assert {
        name: trained.arguments[name] for name in ("devices", "nodes", "device", "tracking", "debug", "find_lr")
    } == {
        "devices": 2,
        "nodes": 3,
        "device": "cpu",
        "tracking": "off",
        "debug": True,
        "find_lr": True,
    }


def test_processes_of_one_training_share_its_folder_and_one_of_them_tells(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DERMSEG_RUN_STARTED", "2026-01-02T03:04:05")
    assert train("unet", "--devices", "2") != ""
    first = trained.output
    assert first.name.endswith("_20260102-030405")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert train("unet", "--devices", "2") == ""
    assert trained.output == first
    monkeypatch.delenv("DERMSEG_RUN_STARTED")
    train("unet", "--devices", "2")
    assert os.environ["DERMSEG_RUN_STARTED"] != "2026-01-02T03:04:05"
    monkeypatch.setenv("DERMSEG_RUN_STARTED", "")  # so that it ends with the test


def test_train_resumes_the_newest_run_of_its_recipe(trained: Trained) -> None:
    def run(name: str, seconds: int, recipe: Recipe | str) -> Path:
        config = Path("runs") / name / "config.yaml"
        config.parent.mkdir(parents=True)
        config.write_text(recipe if isinstance(recipe, str) else recipe.to_yaml())
        os.utime(config, (seconds, seconds))
        return config.parent

    run("old", 100, load_recipe("unet"))
    newer = run("newer", 200, load_recipe("unet"))
    shorter = run("shorter", 300, load_recipe("unet", ["epochs=3"]))
    debug = run("debug", 250, shortened(load_recipe("unet"), 1))
    run("other", 400, load_recipe("lesion"))
    run("broken", 500, "name: unet\nwhat: is this\n")
    for options, expected in (
        ([], newer),
        (["--epochs", "3"], shorter),
        (["--epochs", "4"], shorter),
        (["--debug"], debug),
    ):
        train("unet", "--resume", *options)
        assert (trained.output, trained.arguments["resume"]) == (expected, True)
    train("unet", "--resume", "--output", "mine")
    assert trained.output == Path("mine")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["unet", "--resume"], "runs holds no run of unet to resume; give its folder as --output"),
        (["unet", "--nodes", "2"], "--nodes needs --output, a folder that every machine sees under the same path"),
        (["unet", "--epochs", "0"], "unet.yaml: setting 'epochs': Input should be greater than or equal to 1, got 0"),
        (["unet", "--set", "lr=1"], "unet.yaml: there is no setting 'lr'; did you mean 'optimizer.lr'?"),
        (["mine.yaml"], None),
    ],
)
def test_train_refuses_in_one_sentence(trained: Trained, arguments: list[str], message: str | None) -> None:
    result = CliRunner().invoke(app, ["train", *arguments, "--data", "DATA"])
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {message or ''}")
    assert trained.arguments == {}


def test_train_needs_data(cli: Cli) -> None:
    result = cli("train", "unet")
    assert (result.returncode, result.stdout) == (2, "")
    assert "--data" in result.stderr


def test_help_of_train_groups_its_options(cli: Cli) -> None:
    result = cli("train", "--help")
    for part in ("Settings of the recipe", "Run", "Machine", "Examples", "--no-augment", "--find-lr", "--freeze"):
        assert part in result.stdout


def test_train_debug_makes_a_bundle_that_segments(cli: Cli, example_file: Path, tmp_path: Path) -> None:
    synthetic.write_dataset(tmp_path / "data", 8, size=(40, 48))
    rows = [f"{s.id},{s.group},{'tune' if n > 5 else 'train'}" for n, s in enumerate(catalog.read(tmp_path / "data"))]
    (tmp_path / "splits.csv").write_text("\n".join(["id,group,split", *rows]) + "\n")
    (tmp_path / "mine.yaml").write_text(
        "base: unet\ndata: {sources: [plain], splits: splits.csv}\nmodel: {arguments: {widths: [4, 8]}}\n"
    )
    options = ["--img_size", "32", "--batch_size", "2", "--loss", "bce_dice", "--tracking", "off", "--device", "cpu"]
    result = cli("train", "mine.yaml", "--data", "data", "--debug", "--no-augment", "--output", "out", *options)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "out/bundle\n"
    assert "Traceback" not in result.stderr
    bundle = Bundle.load(tmp_path / "out" / "bundle")
    assert (bundle.name, bundle.manifest.input_size) == ("mine", 32)
    assert cli("segment", example_file, "--bundle", "out/bundle").returncode == 0


# predict and inference

RESULTS = ("mask", "overlay", "result")


def test_predict_does_a_folder_as_segment_does(cli: Cli, photos: Path, tmp_path: Path, dark_bundle: Bundle) -> None:
    options = ["--model_path", dark_bundle.path, "--output_dir", "out", "--threshold", "0.9", "--img_size", "64"]
    result = cli("predict", "--input_dir", "photos", *options)
    assert (result.returncode, result.stderr) == (0, "")
    assert names(tmp_path / "out") == {f"{stem}_{kind}.png" for stem in ("a", "B") for kind in RESULTS}
    expected = Segmenter(dark_bundle, threshold=0.9)(photos / "a.png").mask
    np.testing.assert_array_equal(read_mask(tmp_path / "out" / "a_mask.png"), expected)


def test_inference_does_one_image(cli: Cli, photos: Path, tmp_path: Path) -> None:
    result = cli("inference", "--model_path", "lesion", "--input", "photos/a.png", "--output_dir", "out")
    assert (result.returncode, result.stderr) == (0, "")
    assert names(tmp_path / "out") == {f"a_{kind}.png" for kind in RESULTS}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["predict", "--input_dir", "photos", "--img_size", "512"],
            "--img_size is 512, but the bundle lesion works at 192; leave it out, masks are of the image's own size "
            "anyway",
        ),
        (
            ["predict", "--input_dir", "photos", "--model_path", "runs/best.pth"],
            "runs/best.pth is a checkpoint, not a bundle; make one of it: dermseg bundles import runs/best.pth "
            "--recipe RECIPE",
        ),
        (
            ["inference", "--input", "photos"],
            "photos is a folder; give one image, or use: dermseg predict --input_dir photos",
        ),
        (["predict", "--input_dir", "nowhere"], "nowhere does not exist; give the path of "),
    ],
)
def test_predict_and_inference_refuse_in_one_sentence(
    cli: Cli, photos: Path, arguments: list[str], message: str
) -> None:
    result = cli(*arguments)
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: {message}")
    assert len(result.stderr.splitlines()) == 1


def test_predict_asks_for_what_it_needs(cli: Cli) -> None:
    assert cli("predict").returncode == 2
    assert cli("inference").returncode == 2


# bundles import


@pytest.fixture
def weights(tmp_path: Path) -> dict[str, torch.Tensor]:
    """Those of a small network of ``small.yaml``."""
    (tmp_path / "small.yaml").write_text("base: unet\ninput_size: 32\nmodel: {arguments: {widths: [4, 8]}}\n")
    recipe = load_recipe(str(tmp_path / "small.yaml"))
    torch.manual_seed(1)
    state: dict[str, torch.Tensor] = build("unet", classes=1, **recipe.model.arguments).state_dict()
    return state


WRAPPED: dict[str, Callable[[dict[str, torch.Tensor]], dict[str, Any]]] = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"epoch": 3, "state_dict": {f"model.{name}": v for name, v in state.items()}},
    "model_state_dict": lambda state: {"model_state_dict": state, "optimizer": {"lr": 1.0}},
    "model": lambda state: {"model": {f"module.net.{name}": value for name, value in state.items()}},
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_weights_trained_elsewhere_become_a_bundle(
    trained: Trained, weights: dict[str, torch.Tensor], tmp_path: Path, kind: str
) -> None:
    torch.save(WRAPPED[kind](weights), tmp_path / "best.pth")
    arguments = ["bundles", "import", "best.pth", "--recipe", "small.yaml", "--licence", "MIT"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout == "best\n"
    bundle = Bundle.load(tmp_path / "best")
    manifest = bundle.manifest
    assert (bundle.name, manifest.licence, manifest.thresholds) == ("best", "MIT", {"lesion": 0.5})
    assert (manifest.training_data.sources, manifest.training_data.split) == ({}, "not stated")
    for name, value in bundle.network().state_dict().items():
        expected = weights[name].half().float() if weights[name].is_floating_point() else weights[name]
        torch.testing.assert_close(value, expected.to(value.dtype), rtol=0, atol=0)
    bundle.verify()
    card = model_card(manifest)
    assert "Threshold on the probability**: lesion 0.5" in card
    assert "| data set |" not in card
    assert str(tmp_path) not in card


def test_weights_that_do_not_fit_are_refused_with_what_differs(
    trained: Trained, weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    weights["more.a"] = torch.zeros(1)
    for index in range(5):
        weights[f"extra.{index}"] = torch.zeros(1)
    del weights["head.bias"]
    weights["head.weight"] = torch.zeros(2, 4, 1, 1)
    torch.save(weights, tmp_path / "best.pth")
    result = CliRunner().invoke(app, ["bundles", "import", "best.pth", "--recipe", "small.yaml"])
    assert result.exit_code == 1
    assert result.stderr == (
        "error: best.pth does not fit the recipe small: 1 missing (head.bias); 6 unexpected (more.a, extra.0, extra.1, "
        "...); 1 of another shape (head.weight is (2, 4, 1, 1), expected (1, 4, 1, 1))\n"
    )
    assert not (tmp_path / "best").exists()


class Dangerous:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("ran",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "best.pth does not exist; give a file of torch weights"),
        (b"", "best.pth is no readable file of torch weights"),
        (b"not weights", "best.pth is refused: it is no file of torch weights"),
        (b"PK\x03\x04 cut off", "best.pth is no readable file of torch weights"),
        (
            {"state_dict": Dangerous()},
            "best.pth is refused: it is no file of torch weights, or holds objects beside them, which could run code",
        ),
        ({}, "best.pth holds no weights by name; expected a state dict, alone or as one of: state_dict, "),
        ({"epoch": 3}, "best.pth holds no weights by name; expected a state dict, alone or as one of: state_dict, "),
        (torch.zeros(1), "best.pth holds no weights by name; "),
    ],
    ids=["missing", "empty", "text", "cut", "pickle", "nothing", "no-weights", "tensor"],
)
def test_what_holds_no_weights_is_refused(
    trained: Trained, weights: dict[str, torch.Tensor], tmp_path: Path, content: object, message: str
) -> None:
    if isinstance(content, bytes):
        (tmp_path / "best.pth").write_bytes(content)
    elif content is not None:
        torch.save(content, tmp_path / "best.pth")
    result = CliRunner().invoke(app, ["bundles", "import", "best.pth", "--recipe", "small.yaml"])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith(f"error: {message}")
    assert len(result.stderr.splitlines()) == 1


def test_importing_keeps_what_is_there_and_needs_a_recipe(
    cli: Cli, weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    torch.save(weights, tmp_path / "best.pth")
    (tmp_path / "best").mkdir()
    result = cli("bundles", "import", "best.pth", "--recipe", "small.yaml")
    assert (result.returncode, result.stderr) == (1, "error: best is in use; give another --output\n")
    assert cli("bundles", "import", "best.pth").returncode == 2
