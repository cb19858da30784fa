"""Keeps a run in MLflow too: its settings, the metrics and pictures of each epoch, and its bundle."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import lightning
from lightning.pytorch.callbacks import Callback
from typing_extensions import override

from dermseg._version import __version__
from dermseg.errors import InputError, MissingExtraError
from dermseg.imaging import make_folder, write_bytes
from dermseg.training import journal
from dermseg.training.config import Recipe
from dermseg.training.manifest import git_state, without_names

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

EXPERIMENT = "dermseg"
RUN_ID = Path("logs") / "mlflow.json"
PICTURES = Path("figures") / "epochs"
# What the user has set stays. MLflow would else wait minutes for a server that is gone, and send its maker statistics.
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
NOISY = ("mlflow", "alembic", "urllib3", "sqlalchemy")


def open_tracker(
    tracking: str, folder: Path, recipe: Recipe, data_hash: str, report: Callable[[str], None]
) -> Tracker | None:
    """Begin to track a run, or go on with the MLflow run that its folder remembers.

    Args:
        tracking: A tracking URI; ``auto`` for an SQLite database beside the run folder, where MLflow is installed; or
            ``off``.
        folder: The run folder.
        recipe: The run's settings.
        data_hash: Hash of the data it is trained on.
        report: Takes a line where something is amiss.

    Returns:
        What is to be attached to the trainer, or None if the run is not tracked.

    Raises:
        MissingExtraError: If a URI is given and MLflow is not installed.
        InputError: If a URI is given and does not work.
    """
    if tracking == "off":
        return None
    if importlib.util.find_spec("mlflow") is None:
        if tracking != "auto":
            raise MissingExtraError("tracking with MLflow", "tracking")
        report("MLflow is not installed, so the run is not tracked: pip install 'dermseg[tracking]'")
        return None
    uri = f"sqlite:///{folder.absolute().parent / 'mlflow.db'}" if tracking == "auto" else tracking
    try:
        with _quiet():
            return Tracker(_client(uri), _artifacts(uri), folder, recipe, data_hash, report)
    except Exception as error:  # MLflow's, those of its database, of the network
        line = f"MLflow at {without_names(uri)} cannot be used: {_reason(error)}"
        if tracking != "auto":
            raise InputError(f"{line}; start its server, or give another URI or 'off'") from error
        report(f"the run is not tracked: {line}")
        return None


class Tracker(Callback):
    """Sends each epoch to MLflow, and on leaving, as a context manager, everything else and how the run ended.

    It reads the journal, so that epochs which could not be sent are sent with the next one that can. What goes wrong
    here costs a line of warning and not the run. Attach it after ``Journal`` and ``Pictures``, in the main process.

    Attributes:
        run_id: MLflow's name of the run.
    """

    def __init__(
        self,
        client: MlflowClient,
        artifacts: str | None,
        folder: Path,
        recipe: Recipe,
        data_hash: str,
        report: Callable[[str], None],
    ) -> None:
        self._client = client
        self._folder = folder
        self._report = report
        self._failed = False
        remembered = _remembered(client, folder)
        self.run_id = _begin(client, artifacts, folder, recipe, data_hash) if remembered is None else remembered
        client.update_run(self.run_id, status="RUNNING")
        self._epochs = {metric.step for metric in client.get_metric_history(self.run_id, "seconds")}
        self._pictures = {Path(file.path).name for file in client.list_artifacts(self.run_id, PICTURES.as_posix())}

    @override
    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Send the epoch."""
        self._attempt(self._send_epochs)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        status = "FINISHED" if kind is None else "KILLED" if issubclass(kind, KeyboardInterrupt) else "FAILED"

        def end() -> None:
            self._send_epochs()
            self._send_files(with_bundle=error is None)
            self._client.set_terminated(self.run_id, status)

        self._attempt(end)

    def _send_epochs(self) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        rows = [row for row in journal.read(self._folder).epochs if row["epoch"] not in self._epochs]
        for row in rows:
            metrics = [
                Metric(_key(name), float("nan") if value is None else value, now, row["epoch"])
                for name, value in row.items()
                if name not in ("kind", "epoch")
            ]
            self._client.log_batch(self.run_id, metrics=metrics)
            self._epochs.add(row["epoch"])
        for picture in sorted((self._folder / PICTURES).glob("*.png")):
            if picture.name not in self._pictures:
                self._client.log_artifact(self.run_id, str(picture), PICTURES.as_posix())
                self._pictures.add(picture.name)

    def _send_files(self, *, with_bundle: bool) -> None:
        for pattern in ("config.yaml", "manifest.json", "logs/metrics.*", "figures/*.png"):
            for path in sorted(self._folder.glob(pattern)):
                parent = path.parent.relative_to(self._folder).as_posix()
                self._client.log_artifact(self.run_id, str(path), None if parent == "." else parent)
        if with_bundle and (self._folder / "bundle").is_dir():
            self._client.log_artifacts(self.run_id, str(self._folder / "bundle"), "bundle")

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            with _quiet():
                action()
        except Exception as error:  # a network or a database may fail in any way; the training is worth more
            if not self._failed:
                self._report(f"warning: MLflow failed, the training goes on without it: {_reason(error)}")
            self._failed = True
        else:
            if self._failed:
                self._report("MLflow works again")
            self._failed = False


def flattened(settings: Mapping[str, Any], parents: str = "") -> dict[str, str]:
    """Settings within settings as ``optimizer.lr``; values as JSON, but text as it is."""
    flat: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat |= flattened(value, f"{parents}{name}.")
        else:
            flat[parents + name] = without_names(value if isinstance(value, str) else json.dumps(value))
    return flat


def _client(uri: str) -> MlflowClient:
    from mlflow.tracking import MlflowClient

    for name in NOISY:  # again, for what the import has configured
        logging.getLogger(name).setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=uri)


def _artifacts(uri: str) -> str | None:
    """Where files are kept; left to a server, but beside a database: MLflow would take the present folder."""
    kind, _, path = uri.partition(":///")
    return (Path(path).absolute().parent / "mlartifacts").as_uri() if kind == "sqlite" and path else None


def _remembered(client: MlflowClient, folder: Path) -> str | None:
    """The MLflow run of a resumed run; None if it is new, or its MLflow run is not in this place."""
    from mlflow.exceptions import MlflowException

    try:
        run_id = str(json.loads((folder / RUN_ID).read_text(encoding="utf-8"))["run_id"])
    except (OSError, ValueError, LookupError, TypeError):
        return None
    try:
        found = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    return run_id if found.info.lifecycle_stage == "active" else None


def _begin(client: MlflowClient, artifacts: str | None, folder: Path, recipe: Recipe, data_hash: str) -> str:
    from mlflow.entities import Param

    tags = {"recipe": recipe.name, "data_hash": data_hash, "dermseg": __version__}
    if recipe.description:
        tags["mlflow.note.content"] = recipe.description
    if (git := git_state(Path(__file__).parent)) is not None:
        tags["mlflow.source.git.commit"] = git["commit"]
    run = client.create_run(_experiment(client, artifacts), run_name=folder.absolute().name, tags=tags)
    run_id = str(run.info.run_id)
    params = [Param(_key(name), value) for name, value in flattened(recipe.model_dump(mode="json")).items()]
    for start in range(0, len(params), 100):  # more are refused
        client.log_batch(run_id, params=params[start : start + 100])
    make_folder((folder / RUN_ID).parent)
    write_bytes(folder / RUN_ID, (json.dumps({"run_id": run_id}) + "\n").encode())
    return run_id


def _experiment(client: MlflowClient, artifacts: str | None) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(EXPERIMENT)
    try:
        return str(found.experiment_id if found else client.create_experiment(EXPERIMENT, artifact_location=artifacts))
    except MlflowException:
        if (found := client.get_experiment_by_name(EXPERIMENT)) is None:
            raise
        return str(found.experiment_id)  # another run was faster


def _key(name: str) -> str:
    return re.sub(r"[^\w.\- :/]", "_", name)


def _reason(error: Exception) -> str:
    """The first line of what went wrong, in a readable length."""
    lines = without_names(str(error)).strip().splitlines() or [type(error).__name__]
    return lines[0] if len(lines[0]) <= 200 else f"{lines[0][:200]}..."


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what MLflow logs and warns of, which is not about the run, from the user; change nothing for longer."""
    loggers = [logging.getLogger(name) for name in NOISY]
    levels = [logger.level for logger in loggers]
    added = SETTINGS.keys() - os.environ.keys()
    os.environ.update({name: SETTINGS[name] for name in added})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for name in added:
            os.environ.pop(name, None)
