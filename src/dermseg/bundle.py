"""The bundle: all that a trained model is, in a folder or a zip; nothing else is needed to run it.

bundle.json         the manifest: architecture, classes, preprocessing, thresholds, data, licence, scores, hashes
model.onnx          float16 weights, square input, free batch; not there for a network that runs on torch only
model_dropout.onnx  what of it comes after its dropout, for Monte Carlo dropout; not there for every network
model.safetensors   the same weights for torch
MODEL_CARD.md       the manifest in words, see ``dermseg.card``
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import os
import re
import secrets
import shutil
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from dermseg.card import model_card
from dermseg.errors import BundleError, BundleIntegrityError, InputError, extra
from dermseg.imaging import write_bytes
from dermseg.manifest import DROPOUT, ONNX, WEIGHTS, Manifest, Score
from dermseg.notes import check_notes
from dermseg.processing import STEPS

if TYPE_CHECKING:
    from torch import nn

MANIFEST, CARD = "bundle.json", "MODEL_CARD.md"
FILES = frozenset((MANIFEST, ONNX, DROPOUT, WEIGHTS, CARD))
MAX_FILE_BYTES = 2**30


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk, its manifest read and checked; larger files are read, and their hashes checked, on demand."""

    path: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        """The bundle's name."""
        return self.manifest.name

    @property
    def argument(self) -> str:
        """What a command takes for it: its path, as ``./lesion`` where ``lesion`` alone is a shipped bundle's name."""
        return f".{os.sep}{self.path}" if str(self.path) in shipped() else str(self.path)

    @property
    def has_onnx(self) -> bool:
        """Whether it was made with ``model.onnx``; one without runs on torch only."""
        return ONNX in self.manifest.hashes

    @classmethod
    def load(cls, name_or_path: str | Path = "lesion") -> Bundle:
        """Open a bundle.

        Args:
            name_or_path: The name of a shipped bundle, a bundle's folder, or a zip of one; a ``Path`` is no name.

        Raises:
            BundleError: If there is none, or it is of another format.
        """
        folders = shipped()
        path = Path(name_or_path)
        if isinstance(name_or_path, str):
            path = folders.get(name_or_path, path)
        if not _exists(path):
            names = ", ".join(folders)
            raise BundleError(f"there is no bundle {str(name_or_path)!r}; give a folder, a zip or one of: {names}")
        try:
            manifest = Manifest.model_validate_json(_read(path, MANIFEST))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "content"
            raise BundleError(
                f"{path / MANIFEST} does not describe a bundle of this version: {where}: {first['msg']}"
            ) from error
        if unknown := [name for name in manifest.processing if name not in STEPS]:
            raise BundleError(f"{path} needs the processing {unknown[0]!r}; install a newer dermseg")
        if missing := set(manifest.classes) - set(manifest.thresholds):
            raise BundleError(f"{path / MANIFEST} has no threshold for {sorted(missing)[0]!r}; expected one a class")
        return cls(path, manifest)

    def read(self, name: str) -> bytes:
        """Read one of the bundle's files and check its hash.

        Raises:
            BundleError: If the file is missing.
            BundleIntegrityError: If it differs from its recorded hash.
        """
        data = _read(self.path, name)
        if hashlib.sha256(data).hexdigest() != self.manifest.hashes.get(name):
            raise BundleIntegrityError(f"{self.path / name} differs from its recorded hash; get the bundle again")
        return data

    def verify(self) -> None:
        """Check the hash of every file; raises as ``read`` does."""
        for name in {WEIGHTS, *self.manifest.hashes}:
            self.read(name)

    def bytes(self) -> int:
        """Size of all its files on disk."""
        files = [self.path] if self.path.is_file() else [p for p in self.path.iterdir() if p.is_file()]
        return sum(file.stat().st_size for file in files)

    def network(self) -> nn.Module:
        """Build the network in torch with the stored weights, in float32 and evaluation mode.

        Raises:
            MissingExtraError: Without torch.
        """
        with extra("running a bundle on torch", "train"):
            import safetensors
            import safetensors.torch

            from dermseg.models import build
        architecture = self.manifest.architecture
        network = build(architecture.name, classes=len(self.manifest.classes), **architecture.arguments)
        weights = self.read(WEIGHTS)
        try:
            state = {name: value.float() for name, value in safetensors.torch.load(weights).items()}
        except safetensors.SafetensorError as error:
            raise BundleError(f"{self.path / WEIGHTS} is no file of weights; get the bundle again") from error
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            raise BundleError(f"{self.path / WEIGHTS} does not fit the architecture {architecture.name!r}") from error
        return network.eval()

    def check_writable(self, what: str = "scores") -> None:
        """Check that scores, or ``what`` else, can be recorded.

        Raises:
            InputError: If the bundle is a zip, or its folder cannot be written.
        """
        if not self.path.is_dir():
            raise InputError(f"{self.path} is a zip; {what} can be recorded in a bundle's folder only")
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise InputError(f"{self.path} cannot be written (Permission denied); copy the bundle, and give the copy")

    def with_scores(self, scores: Sequence[Score]) -> Bundle:
        """Record scores in the bundle and its card, in place of older ones on the same data and protocol.

        Raises:
            InputError: If the bundle is a zip.
        """
        new = {(score.data, score.split, score.protocol) for score in scores}

        def joined(now: Manifest) -> tuple[Score, ...]:
            return (*(s for s in now.scores if (s.data, s.split, s.protocol) not in new), *scores)

        return self._record("scores", joined)

    def with_notes(self, notes: Mapping[str, str]) -> Bundle:
        """Record notes, title -> Markdown, in the bundle and its card, in place of all older ones.

        Raises:
            InputError: If the bundle is a zip, or a note would break the card's structure, see
                ``dermseg.notes.check_notes``.
        """
        check_notes(notes)
        return self._record("notes", lambda _: dict(notes))

    def _record(self, what: str, value: Callable[[Manifest], object]) -> Bundle:
        """The bundle with another value in a field of its manifest, written.

        Others may have recorded something since the bundle was loaded, so the manifest is read again.
        """
        self.check_writable(what)
        now = Bundle.load(self.path).manifest
        added: dict[str, Any] = {"scores": (), "notes": {}}
        if now.model_copy(update=added) != self.manifest.model_copy(update=added):
            raise BundleError(f"{self.path} is another bundle than when it was read; {what} of that are not its own")
        manifest = now.model_copy(update={what: value(now)})
        _write_manifest(self.path, manifest)
        return replace(self, manifest=manifest)

    def pack(self, path: Path) -> Path:
        """Write the bundle, its hashes checked, as one zip and return its path."""
        self.verify()
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in (MANIFEST, *self.manifest.hashes, CARD):
                archive.writestr(name, _read(self.path, name))
        write_bytes(path, content.getvalue())
        return path


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long, or holds a null character
        return False


def check_replaceable(folder: Path) -> Path:
    """Check that a bundle can be written to a folder and that nothing else is lost by it; nothing is made or changed.

    Returns:
        The folder, resolved.

    Raises:
        InputError: If it holds anything but a bundle, is or lies below a file, or cannot be written.
    """
    try:
        target = folder.resolve()
        standing = next(path for path in (target, *target.parents) if path.exists())
        if not standing.is_dir():
            where = f"{folder} is a file" if standing == target else f"{folder} lies below the file {standing}"
            raise InputError(f"{where}; give a folder for the bundle")
        if standing == target and not _is_free(target):
            raise InputError(f"{folder} holds other things than a bundle, which would be lost; give another folder")
        # What stands there is renamed, which its parent must allow.
        if not os.access(target.parent if standing == target else standing, os.W_OK | os.X_OK):
            raise InputError(f"{folder} cannot be written (Permission denied); give another folder")
    except (OSError, RuntimeError, ValueError) as error:
        raise _not_written(folder, error) from error
    return target


def write(folder: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Bundle:
    """Write a new bundle, in place of one that stands there; nothing half-written is left.

    Args:
        folder: The bundle's folder, see ``check_replaceable``.
        manifest: Its hashes are filled in from ``files``.
        files: The bytes of ``model.safetensors`` and, unless the network runs on torch only, ``model.onnx``; with it
            ``model_dropout.onnx``, if the network has one.

    Raises:
        InputError: If something else than a bundle stands there, or the folder cannot be written.
    """
    target = check_replaceable(folder)
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    manifest = manifest.model_copy(update={"hashes": hashes})
    scratch = target.with_name(f".{target.name}.{secrets.token_hex(4)}.new")
    try:
        # Whoever stands in the folder that is exchanged, or below it, has no working directory after that.
        away = not folder.is_absolute() and target in (here := Path.cwd(), *here.parents)
        scratch.mkdir(parents=True)
        for name, data in files.items():
            write_bytes(scratch / name, data)
        _write_manifest(scratch, manifest)
        _exchange(scratch, target)
    except OSError as error:
        raise _not_written(folder, error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Bundle(target if away else folder, manifest)


def _exchange(new: Path, target: Path) -> None:
    """Rename ``new`` to ``target``; what stands there is put back if that fails, and removed if it does not.

    Raises:
        InputError: If the hidden folder that the old one is kept in holds other things than a bundle.
        OSError: If a folder cannot be renamed.
    """
    old = target.with_name(f".{target.name}.old")
    if os.path.lexists(old) and (old.is_symlink() or not old.is_dir() or not _names(old) <= FILES):
        raise InputError(f"{old} is in the way and is no old bundle; move it, or give another folder")
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)  # of a run that was ended after its exchange
        target.rename(old)
        try:
            new.rename(target)
        except BaseException:
            old.rename(target)
            raise
    else:
        new.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _is_free(folder: Path) -> bool:
    """Whether a folder is empty or a bundle, and nothing but one."""
    names = _names(folder)
    return not names or (MANIFEST in names and names <= FILES and all((folder / name).is_file() for name in names))


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _not_written(folder: Path, error: Exception) -> InputError:
    reason = (isinstance(error, OSError) and error.strerror) or "not a valid path"
    shown = str(folder) if str(folder).isprintable() else ascii(str(folder))
    return InputError(f"{shown} cannot be written ({reason}); give another folder")


def shipped() -> dict[str, Path]:
    """The folders of the bundles inside the package, by name."""
    folders = sorted(path.parent for path in Path(str(resources.files("dermseg"))).glob(f"bundles/*/{MANIFEST}"))
    return {folder.name: folder for folder in folders}


def shipped_bundles() -> list[Bundle]:
    """The bundles inside the package."""
    return [Bundle.load(path) for path in shipped().values()]


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    text = json.dumps(manifest.model_dump(mode="json"), indent=2)
    # A list of numbers in one line: the quality model has long ones.
    text = re.sub(r"\[\n[-+\d.eE,\s]*\]", lambda match: f"[{' '.join(match[0][1:-1].split())}]", text)
    write_bytes(folder / MANIFEST, (text + "\n").encode())
    write_bytes(folder / CARD, model_card(manifest).encode())


def _read(path: Path, name: str) -> bytes:
    try:
        if path.is_dir():
            return (path / name).read_bytes()
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(name).file_size > MAX_FILE_BYTES:
                raise BundleError(f"{name} in {path} is larger than a bundle's file may be (1 GiB)")
            return archive.read(name)
    except (FileNotFoundError, KeyError) as error:
        raise BundleError(f"{path} is no complete bundle: {name} is missing") from error
    except (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
        if isinstance(error, OSError) and path.is_dir():
            raise BundleError(f"{path / name} cannot be read ({error.strerror})") from error
        raise BundleError(f"{path} is no bundle: it is neither a folder nor a readable zip") from error
