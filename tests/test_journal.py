"""The journal and the manifest of a run, written by real, tiny runs."""

from __future__ import annotations

import csv
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities import rank_zero_only

from dermseg._version import __version__
from dermseg.training import journal, manifest
from dermseg.training.journal import Journal
from dermseg.training.manifest import Manifest, command_line, git_state, hardware, versions, without_names
from tests.tiny_training import BATCH_SIZE, BATCHES, StopError, fit

pytestmark = pytest.mark.filterwarnings(
    r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated",
    "ignore:The '.*_dataloader' does not have many workers",
    "ignore:The number of training batches",
    "ignore:Checkpoint directory .* exists and is not empty",
)

TIMES = ("seconds", "images_per_second")


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """Each line, read strictly: NaN is no JSON."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    lines = (folder / "logs" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


def without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


# --- the journal ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    fit([Journal(folder)], epochs=2)
    return folder


def test_each_batch_and_each_epoch_has_a_line(folder: Path) -> None:
    rows = lines_of(folder)
    assert [row["kind"] for row in rows] == (["batch"] * BATCHES + ["epoch"]) * 2
    assert [row["epoch"] for row in rows] == [1] * 4 + [2] * 4
    batches = [row for row in rows if row["kind"] == "batch"]
    assert [row["batch"] for row in batches] == [row["step"] for row in batches] == [1, 2, 3, 4, 5, 6]
    assert [row["images"] for row in batches] == [BATCH_SIZE * n for n in range(1, 7)]
    for row in batches:
        assert row["loss"] == pytest.approx(2 * row["loss_bce"], rel=1e-5)
        assert row["images_per_second"] == pytest.approx(BATCH_SIZE / row["seconds"], rel=1e-4)
    # The rate a step was made with, not the next one's.
    assert [row["learning_rate"] for row in batches] == pytest.approx([0.1 / n for n in range(1, 7)])


def test_an_epochs_line_has_the_means_and_the_scores(folder: Path) -> None:
    history = journal.read(folder)
    for number, row in enumerate(history.epochs, start=1):
        batches = [batch for batch in history.batches if batch["epoch"] == number]
        assert row["train/loss"] == pytest.approx(sum(batch["loss"] for batch in batches) / BATCHES, rel=1e-5)
        assert row["train/loss_bce"] == pytest.approx(row["train/loss"] / 2, rel=1e-5)
        assert row["tune/jaccard"] == pytest.approx(0.5 + number / 100)
        assert row["tune/threshold"] == pytest.approx(number / 10)
        assert (row["step"], row["images"]) == (3 * number, 12 * number)
        assert row["seconds"] > sum(batch["seconds"] for batch in batches)
        assert not any(name.endswith(("_step", "_epoch")) for name in row)


def test_what_is_not_a_number_is_null_and_keeps_its_place(folder: Path) -> None:
    assert [row["tune/precision"] for row in journal.read(folder).epochs] == [None, None]


def test_the_table_says_the_same_as_the_lines(folder: Path) -> None:
    with (folder / "logs" / "metrics.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    expected = journal.read(folder).epochs
    assert [{name: float(value or "nan") for name, value in row.items()} for row in rows] == [
        pytest.approx(
            {name: math.nan if value is None else value for name, value in row.items() if name != "kind"}, nan_ok=True
        )
        for row in expected
    ]


def test_nothing_but_the_logs_is_written(folder: Path) -> None:
    assert sorted(path.name for path in folder.rglob("*")) == ["logs", "metrics.csv", "metrics.jsonl"]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_resumed_run_drops_what_came_after_the_checkpoint(tmp_path: Path, accumulate: int) -> None:
    fit([Journal(tmp_path / "whole")], epochs=3, accumulate=accumulate)
    folder, checkpoints = tmp_path / "run", tmp_path / "checkpoints"
    with pytest.raises(StopError):
        fit([Journal(folder)], epochs=3, checkpoints=checkpoints, accumulate=accumulate, fail_at=6)
    assert [row["kind"] for row in lines_of(folder)] == ["batch"] * 3 + ["epoch"] + ["batch"] * 2
    before = lines_of(folder)[:4]
    with (folder / "logs" / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "batch", "epo')  # killed while writing
    fit([Journal(folder)], epochs=3, checkpoints=checkpoints, accumulate=accumulate, resume=True)
    assert lines_of(folder)[:4] == before
    assert without_times(lines_of(folder)) == without_times(lines_of(tmp_path / "whole"))
    table = (folder / "logs" / "metrics.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in table] == ["epoch", "1", "2", "3"]


def test_a_run_without_checkpoint_begins_its_journal_again(tmp_path: Path) -> None:
    with pytest.raises(StopError):
        fit([Journal(tmp_path)], fail_at=3)
    fit([Journal(tmp_path)], epochs=1)
    assert [row["batch"] for row in journal.read(tmp_path).batches] == [1, 2, 3]


def test_a_folder_without_journal_has_an_empty_history(tmp_path: Path) -> None:
    assert journal.read(tmp_path) == journal.History([], [])


def test_the_journal_changes_nothing_in_the_training(tmp_path: Path) -> None:
    with_it, without = fit([Journal(tmp_path)]), fit([])
    assert with_it.drawn == without.drawn
    assert all(map(torch.equal, with_it.parameters(), without.parameters()))


# --- the manifest --------------------------------------------------------------------------------


def content_of(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_the_manifest_tells_of_a_run_that_goes_on_and_of_its_end(tmp_path: Path) -> None:
    path = tmp_path / "run" / "manifest.json"
    with Manifest(path, data={"content_hash": "ab"}, seed=3, command="dermseg train lesion") as kept:
        begun = content_of(path)
        fit([Journal(path.parent, kept)])
        going = content_of(path)
    ended = content_of(path)
    assert begun["status"] == going["status"] == "running"
    assert (begun["ended"], begun["error"], begun["earlier"]) == (None, None, [])
    assert (ended["status"], ended["error"]) == ("finished", None)
    assert 0 <= begun["duration_s"] <= going["duration_s"] <= ended["duration_s"]
    assert ended["started"] <= ended["ended"]
    assert (ended["seed"], ended["command"], ended["data"]) == (3, "dermseg train lesion", {"content_hash": "ab"})
    assert ended["versions"]["torch"] == torch.__version__
    assert [file.name for file in path.parent.iterdir() if file.is_file()] == ["manifest.json"]


def test_a_failure_is_named(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    with pytest.raises(StopError), Manifest(path, data={}, seed=0):
        fit([], fail_at=2)
    assert (content_of(path)["status"], content_of(path)["error"]) == ("failed", "StopError: stopped")
    with pytest.raises(KeyboardInterrupt), Manifest(path, data={}, seed=0):
        raise KeyboardInterrupt
    assert content_of(path)["error"] == "KeyboardInterrupt"


def test_a_resumed_run_keeps_what_is_known_of_the_earlier_parts(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    with pytest.raises(StopError), Manifest(path, data={"content_hash": "ab"}, seed=0):
        raise StopError("first")
    Manifest(path, data={"content_hash": "ab"}, seed=0).__enter__()  # and killed
    with Manifest(path, data={"content_hash": "ab"}, seed=0):
        pass
    content = content_of(path)
    assert [part["error"] for part in content["earlier"]] == ["StopError: first", manifest.KILLED]
    assert [part["status"] for part in content["earlier"]] == ["failed", "failed"]
    assert not any("data" in part or "earlier" in part for part in content["earlier"])


@pytest.mark.parametrize("content", ["", '{"status": "runn', "[]", "\x00"])
def test_a_broken_manifest_is_replaced(tmp_path: Path, content: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(content)
    with Manifest(path, data={}, seed=0):
        assert content_of(path)["earlier"] == []


def test_the_error_of_the_run_is_not_hidden_by_a_folder_that_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "run" / "manifest.json"

    def stop() -> None:
        shutil.rmtree(path.parent)
        path.parent.write_text("in the way")
        raise StopError

    with pytest.raises(StopError), Manifest(path, data={}, seed=0):
        stop()


def test_only_the_main_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    with Manifest(tmp_path / "manifest.json", data={}, seed=0):
        pass
    assert list(tmp_path.iterdir()) == []


def test_versions_are_those_of_what_runs() -> None:
    found = versions()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["dermseg"] == __version__
    assert {"numpy", "torch", "lightning", "kornia"} <= found.keys()
    assert "ruff" not in found


def test_the_hardware_is_described() -> None:
    found = hardware()
    assert found.keys() == {"platform", "cpu", "cores", "memory_bytes", "gpus"}
    assert found["cores"] >= 1
    assert found["cpu"]
    assert found["memory_bytes"] > 2**28
    assert len(found["gpus"]) == torch.cuda.device_count()


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    done = subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_state_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "src"
    package.mkdir()
    assert git_state(package) is None
    git(tmp_path, "init", "-q")
    (package / "code.py").write_text("1")
    assert git_state(package) is None  # in a checkout, but not of it
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "one")
    commit = git(tmp_path, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", "/nowhere")  # as in a hook
    assert git_state(package) == {"commit": commit, "dirty": False}
    (tmp_path / "notes.txt").write_text("elsewhere")
    assert git_state(package) == {"commit": commit, "dirty": False}
    (package / "code.py").write_text("2")
    assert git_state(package) == {"commit": commit, "dirty": True}


def test_git_may_be_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(Path(__file__).parent) is None


def test_a_command_is_kept_if_it_is_ours() -> None:
    assert command_line(["/opt/x/bin/dermseg", "train", "a b"]) == "dermseg train 'a b'"
    assert command_line(["/x/dermseg/__main__.py", "train"]) == "dermseg train"
    assert command_line(["/x/script.py", "--password", "secret"]) is None
    assert command_line(["/x/other/__main__.py", "--password", "secret"]) is None


def test_names_and_passwords_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setattr("platform.node", lambda: "babbage")
    text = "--data /home/ada/isic --tracking http://ada:pw@babbage:5000 --out /scratch/ada/run /scratch/adamant"
    assert (
        without_names(text) == "--data ~/isic --tracking http://localhost:5000 --out /scratch/user/run /scratch/adamant"
    )


def test_a_manifest_holds_no_environment_and_no_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    monkeypatch.setattr("platform.node", lambda: "babbage")
    path = tmp_path / "manifest.json"
    with pytest.raises(StopError), Manifest(path, data={}, seed=0, command="dermseg train --data /home/ada/isic"):
        raise StopError("no file /home/ada/isic/a.png")
    text = path.read_text()
    assert not any(name in text for name in ("ada", "hunter2", "SECRET", "babbage"))
    assert content_of(path)["error"] == "StopError: no file ~/isic/a.png"
