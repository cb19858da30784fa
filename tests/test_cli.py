"""The command line, run as a user runs it."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dermseg import __version__, synthetic
from dermseg.bundle import CARD, Bundle, model_card, shipped_bundles
from dermseg.cli.main import COMMANDS
from dermseg.cli.segment import plan
from dermseg.data import catalog
from dermseg.errors import InputError
from dermseg.imaging import read_mask
from dermseg.metrics import Confusion
from dermseg.segmenter import Segmenter
from tests.conftest import Cli
from tests.hostile import HOSTILE, Decodes, Fails


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
            "there is no output 'masks'; choose from: mask, overlay, result, probability, json",
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
    for command in COMMANDS:
        assert f" {command.__name__} " in result.stdout


def test_help_of_segment_shows_its_options_and_examples(cli: Cli) -> None:
    result = cli("segment", "-h")
    assert result.returncode == 0
    for part in ("--output", "--threshold", "--recursive", "--json", "Examples", "dermseg segment lesion.jpg"):
        assert part in result.stdout


# evaluate and bundles


def test_evaluate_scores_a_data_set_and_records_it(cli: Cli, tmp_path: Path, dark_bundle: Bundle) -> None:
    synthetic.write_dataset(tmp_path / "data", 5, size=(64, 96))
    folder = shutil.copytree(dark_bundle.path, tmp_path / "bundle")
    arguments = ["--bundle", folder, "--data", "data", "--split", "all", "--output", "scores"]
    result = cli("evaluate", *arguments, "--record")
    assert result.returncode == 0, result.stderr
    assert names(tmp_path / "scores") == {"scores.csv", "result.json"}

    segmenter, samples = Segmenter(dark_bundle, threads=1), catalog.read(tmp_path / "data")
    expected = {
        s.id: Confusion.of(segmenter(s.image).mask, read_mask(s.masks["lesion"])).scores()["jaccard"] for s in samples
    }
    with (tmp_path / "scores" / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["id"]: float(row["jaccard"]) for row in rows} == pytest.approx(expected)
    assert len(rows) == 5

    document = json.loads((tmp_path / "scores" / "result.json").read_text())
    mean = float(np.mean(list(expected.values())))
    assert document["summaries"]["plain"]["metrics"]["jaccard"]["mean"] == pytest.approx(mean)
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
            "--record keeps the scores of the bundle as it is; it goes with neither --threshold nor --splits",
        ),
    ):
        result = cli("evaluate", "--data", "data", "--split", "all", "--bundle", zipped, *options)
        assert (result.returncode, result.stdout, result.stderr) == (1, "", f"error: {message}\n")
    assert not (tmp_path / "evaluation").exists()


def test_bundles_lists_what_is_shipped(cli: Cli) -> None:
    shown, told = cli("bundles"), cli("bundles", "--json")
    assert (shown.returncode, told.returncode) == (0, 0)
    assert json.loads(told.stdout) == [bundle.manifest.model_dump(mode="json") for bundle in shipped_bundles()]
    for bundle in shipped_bundles():
        assert f"{bundle.name}: {bundle.manifest.description}" in shown.stdout
        assert f"licence         {bundle.manifest.licence} (weights)" in shown.stdout
