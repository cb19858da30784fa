"""The README's commands and its Python work as printed."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dermseg.cli.main import GROUPS
from dermseg.imaging import open_image, read_mask
from tests.service import serving

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line)
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("dermseg ")
]
REQUESTS = [shlex.split(line) for line in README.splitlines() if line.startswith("curl ")]
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
DERMSEG = Path(sys.executable).with_name("dermseg")


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


def test_quick_start_runs_as_printed(tmp_path: Path) -> None:
    quick = [command for command in COMMANDS if command[1] in ("example", "segment") and "--bundle" not in command]
    assert len(quick) == 6
    for command in quick:
        result = run(DERMSEG, *command[1:], cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    made = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")}
    assert {"dermseg-output/lesion_mask.png", "dermseg-output/lesion_overlay.png", "results/lesion.json"} <= made


def test_python_runs_as_printed(tmp_path: Path) -> None:
    assert run(DERMSEG, "example", "lesion.png", cwd=tmp_path).returncode == 0
    result = run(sys.executable, "-W", "error", "-c", "\n".join(PYTHON), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "missing.png does not exist" in result.stdout
    assert (tmp_path / "results" / "lesion_mask.png").is_file()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_requests_are_answered_as_printed(tmp_path: Path) -> None:
    assert len(REQUESTS) == 5
    assert run(DERMSEG, "example", "lesion.png", cwd=tmp_path).returncode == 0
    with serving() as service:
        for request in REQUESTS:
            here = [word.replace("localhost:8000", service.url) for word in request]
            result = run(*here, "--fail", "--noproxy", "*", cwd=tmp_path)
            assert result.returncode == 0, result.stderr
    assert read_mask(tmp_path / "mask.png").shape == open_image(tmp_path / "overlay.png").size == (768, 1024)
    assert json.loads((tmp_path / "result.json").read_text())["measurements"]["area_mm2"] > 0
    # The mask was the service's own.
    assert json.loads((tmp_path / "scores.json").read_text())["scores"]["jaccard"] == 1
    lines = [json.loads(line) for line in (tmp_path / "lines.ndjson").read_text().splitlines()]
    assert ["result" in lines[0], "problem" in lines[1]] == [True, True]


def words(command: list[str]) -> tuple[str, ...]:
    """The command itself: a group's has two words."""
    grouped = command[1] in {group.info.name for group in GROUPS} and command[2:3] != []
    return tuple(command[1 : 3 if grouped else 2])


@pytest.mark.parametrize("name", sorted({words(command) for command in COMMANDS}))
def test_every_option_exists(name: tuple[str, ...], tmp_path: Path) -> None:
    options = {word for command in COMMANDS if words(command) == name for word in command if word.startswith("--")}
    result = run(DERMSEG, *name, "--help", cwd=tmp_path)
    assert result.returncode == 0
    assert options <= set(re.findall(r"--[a-z-]+", result.stdout))


def test_links_lead_somewhere() -> None:
    root = Path(__file__).parents[1]
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in target]
    assert targets
    assert [target for target in targets if not (root / target).exists()] == []
