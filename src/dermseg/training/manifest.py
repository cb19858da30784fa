"""``manifest.json`` of a run folder: with what, on what and when a run was made, and how it ended.

It holds no environment variables and no names of users or machines, so that a run folder can be given away.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_only

from dermseg.errors import InputError
from dermseg.imaging import make_folder, write_bytes

Content = dict[str, Any]
KILLED = "ended without a message: killed, or the machine stopped"


class Manifest:
    """Writes the manifest on entering, keeps its duration up to date, and on leaving says how the run ended.

    A resumed run replaces the manifest and keeps the former ones in its list ``earlier``. Only the main process writes.

    Args:
        path: The file.
        data: What the run is trained on, with its content hash.
        seed: Of the run.
        command: What was typed; None takes it from this process if that is ``dermseg`` itself.
    """

    def __init__(self, path: Path, *, data: Mapping[str, Any], seed: int, command: str | None = None) -> None:
        self._path = path
        self._start = 0.0
        self._content: Content = {
            "status": "running",
            "error": None,
            "command": command_line() if command is None else without_names(command),
            "seed": seed,
            "started": None,
            "ended": None,
            "duration_s": 0.0,
            "data": dict(data),
        }

    def __enter__(self) -> Manifest:
        self._start = time.monotonic()
        self._content |= {
            "started": _now(),
            "versions": versions(),
            "hardware": hardware(),
            "git": git_state(Path(__file__).parent),
            "earlier": _earlier(self._path),
        }
        self.update()
        return self

    def update(self) -> None:
        """Write what is known up to now."""
        if getattr(rank_zero_only, "rank", 0) == 0 and os.environ.get("NODE_RANK", "0") == "0":
            self._content["duration_s"] = round(time.monotonic() - self._start, 1)
            make_folder(self._path.parent)
            write_bytes(self._path, (json.dumps(self._content, indent=2) + "\n").encode())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._content |= {"status": "finished" if error is None else "failed", "ended": _now()}
        if error is None:
            self.update()
            return
        self._content["error"] = without_names(f"{type(error).__name__}: {error}".removesuffix(": "))
        with contextlib.suppress(InputError):  # the error on its way says more
            self.update()


def versions() -> dict[str, str]:
    """Versions of Python and of what dermseg requires, as far as it is installed."""
    found = {"python": platform.python_version(), "dermseg": metadata.version("dermseg")}
    for requirement in metadata.requires("dermseg") or ():
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        if not re.search(r"extra\s*==\s*['\"]dev['\"]", requirement):
            with contextlib.suppress(metadata.PackageNotFoundError):
                found[name] = metadata.version(name)
    if torch.version.cuda is not None:
        found["cuda"] = torch.version.cuda
    return found


def hardware() -> Content:
    """The kind of machine: operating system, CPU, cores this process may use, memory, GPUs."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": cores,
        "memory_bytes": _memory(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }


def git_state(folder: Path) -> Content | None:
    """The commit that the files of ``folder`` are of, and whether they differ from it.

    None where git is not installed, or the folder is in no checkout or not part of it (an environment inside one).
    """
    if not _git(folder, "ls-files"):
        return None
    commit, changes = _git(folder, "rev-parse", "HEAD"), _git(folder, "status", "--porcelain", "--", ".")
    return None if not commit or changes is None else {"commit": commit, "dirty": bool(changes)}


def command_line(arguments: Sequence[str] | None = None) -> str | None:
    """The command of this process if it is ``dermseg``; what other programs were given is not ours to keep."""
    program, *rest = sys.argv if arguments is None else arguments
    path = Path(program)
    if path.stem != "dermseg" and (path.name != "__main__.py" or path.parent.name != "dermseg"):
        return None
    return without_names(shlex.join(["dermseg", *rest]))


def without_names(text: str) -> str:
    """The text without the names of the user and the machine in its paths and addresses, and without passwords."""
    text = re.sub(r"(?<=://)[^/@\s]+@", "", text)
    if machine := platform.node():
        text = re.sub(rf"(?<=://){re.escape(machine)}\b", "localhost", text)
    home = os.path.expanduser("~")  # noqa: PTH111  (Path fails where there is no home)
    if len(home) > 1:
        text = re.sub(re.escape(home) + r"(?![\w.-])", "~", text)
        text = re.sub(rf"(?<=/){re.escape(Path(home).name)}(?![\w.-])", "user", text)
    return text


def _earlier(path: Path) -> list[Content]:
    """The manifests of the processes that began this run."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    if not isinstance(content, dict):
        return []
    earlier: list[Content] = content.pop("earlier", [])
    content.pop("data", None)  # a run is resumed with the same data
    if content.get("status") == "running":
        content |= {"status": "failed", "error": KILLED}
    return [*earlier, content]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _git(folder: Path, *arguments: str) -> str | None:
    # A hook of git sets variables that would lead to its own repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=20,
            check=True,
            env=environment,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on this system
        return None
