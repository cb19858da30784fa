"""What a user sees while a run goes on."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
import torch
from rich.console import Console

from dermseg.training import progress
from dermseg.training.progress import Clock, EpochLines, LiveProgress, memory, resident_bytes
from tests.tiny_training import StopError, fit

pytestmark = pytest.mark.filterwarnings(
    r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated",
    "ignore:The '.*_dataloader' does not have many workers",
    "ignore:Checkpoint directory .* exists and is not empty",
)


class Time:
    """A clock that is set by hand."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    clock = Time()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_the_time_left_follows_the_mean_of_the_epochs_so_far(time: Time) -> None:
    clock = Clock()
    assert clock.left(10) is None
    time.now += 40
    assert clock.lap() == 40
    time.now += 20
    assert clock.lap() == 20
    assert clock.left(10) == 300
    assert clock.left(0) == 0


def test_each_epoch_has_a_line() -> None:
    lines: list[str] = []
    fit([EpochLines(lines.append)], epochs=2)
    assert len(lines) == 2
    for number, line in enumerate(lines, start=1):
        shown = re.fullmatch(
            rf"epoch {number}/2: train/loss 0\.\d{{4}}, tune/loss 0\.\d{{4}}, jaccard (0\.\d{{4}}), dice (0\.\d{{4}}), "
            r"threshold (0\.\d{4}), jaccard_plain 0\.\d{4}; \d+ s, \d+ min left",
            line,
        )
        assert shown is not None, line
        assert [float(text) for text in shown.groups()] == pytest.approx(
            [0.5 + number / 100, 0.6 + number / 100, number / 10]
        )


def test_a_resumed_run_counts_its_epochs_on(tmp_path: Path) -> None:
    lines: list[str] = []
    with pytest.raises(StopError):
        fit([EpochLines(lines.append)], epochs=3, checkpoints=tmp_path, fail_at=5)
    fit([EpochLines(lines.append)], epochs=3, checkpoints=tmp_path, resume=True)
    assert [line.split(":")[0] for line in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]


def terminal(width: int = 100) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def shown_on(console: Console) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written(console))


def test_a_terminal_shows_where_the_run_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 0)
    console = terminal()
    fit([LiveProgress(console)], epochs=2)
    text = shown_on(console)
    assert "epoch 1/2" in text
    assert "epoch 2/2" in text
    assert "scoring tune" in text
    assert re.search(r"train/loss 0\.\d{3}, \d+\.\d images/s, time left unknown, \d+\.\d GiB", text)
    # The second epoch has the first one's scores, and a time.
    assert re.search(r"train/loss 0\.\d{3}, tune/loss 0\.\d{3}, jaccard 0\.510, dice 0\.610, .* min left", text)


def test_a_narrow_terminal_cuts_nothing_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 0)
    console = terminal(60)
    fit([LiveProgress(console)], epochs=2)
    assert "…" not in shown_on(console)
    assert "GiB" in shown_on(console)


def test_a_display_that_a_run_broke_off_gives_the_terminal_back() -> None:
    console = terminal()
    display = LiveProgress(console)
    with pytest.raises(StopError):
        fit([display], fail_at=3)
    assert written(console).count("\x1b[?25l") == written(console).count("\x1b[?25h") == 1  # the cursor
    console.print("next")
    assert screen(console) == ["next"]


def test_there_is_no_display_without_a_terminal() -> None:
    console = Console(file=io.StringIO(), force_terminal=False)
    fit([LiveProgress(console)])
    assert shown_on(console) == ""


def screen(console: Console) -> list[str]:
    """What stands on the terminal after all that was written, of the few commands that rich uses."""
    rows, row = [""], 0
    for part in re.findall(r"\x1b\[[0-9;?]*[a-zA-Z]|\n|\r|[^\x1b\n\r]+", written(console)):
        if part == "\x1b[2K":
            rows[row] = ""
        elif part == "\x1b[1A":
            row -= 1
        elif part == "\n":
            row += 1
            rows += [""] * (row == len(rows))
        elif part == "\r":
            continue
        elif not part.startswith("\x1b"):
            rows[row] += part
    return [text for text in rows if text]


def test_lines_that_are_written_between_epochs_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 0)
    console = terminal()
    lines: list[str] = []

    def report(line: str) -> None:
        lines.append(line)
        console.file.write(f"{line}\n")  # past rich, as any report may be

    fit([LiveProgress(console), EpochLines(report)], epochs=3)
    assert screen(console) == lines
    assert [line.split(":")[0] for line in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]


def test_watching_changes_nothing_in_the_training() -> None:
    watched, alone = fit([LiveProgress(terminal()), EpochLines(lambda line: None)]), fit([])
    assert watched.drawn == alone.drawn
    assert all(map(torch.equal, watched.parameters(), alone.parameters()))


def test_the_memory_is_that_of_this_process() -> None:
    before = resident_bytes()
    if before is None:
        pytest.skip("this system does not tell")
    held = bytearray(b"x" * 200_000_000)
    after = resident_bytes()
    assert after is not None
    assert 150_000_000 < after - before < 300_000_000
    del held
    assert re.fullmatch(r"\d+\.\d GiB", memory(torch.device("cpu"))[0])


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "time left unknown"), (31, "1 min left"), (7100, "118 min left"), (9000, "2.5 h left")]
)
def test_the_time_left_is_said_in_fitting_units(seconds: float | None, text: str) -> None:
    assert progress._time_left(seconds) == text
