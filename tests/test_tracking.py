"""Runs kept in MLflow: in its SQLite database, and by a real server, which may die."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dermseg.errors import InputError, MissingExtraError
from dermseg.training import tracking
from dermseg.training.journal import Journal
from dermseg.training.pictures import Pictures
from dermseg.training.tracking import Tracker, flattened, open_tracker
from tests.tiny_training import StopError, fit, images, recipe

pytest.importorskip("mlflow")

pytestmark = pytest.mark.filterwarnings(
    r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated",
    "ignore:The '.*_dataloader' does not have many workers",
    "ignore:Checkpoint directory .* exists and is not empty",
)

HASH = "ab" * 32


class Server:
    """``mlflow server`` on a free port."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self.start()

    def start(self) -> None:
        database, files = f"sqlite:///{self._folder / 'mlflow.db'}", str(self._folder / "files")
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", database, "--artifacts-destination", files]
        environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self._folder / "log.txt").open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=self._folder, stdout=log, stderr=log, start_new_session=True, env=environment
            )
        while self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                    return
            except (OSError, urllib.error.URLError):
                time.sleep(0.2)
        raise AssertionError((self._folder / "log.txt").read_text())

    def kill(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)  # with its workers
        self._process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.kill()


def refuse(line: str) -> None:
    raise AssertionError(line)


def opened(uri: str, folder: Path, report: Callable[[str], None] = refuse) -> Tracker:
    tracker = open_tracker(uri, folder, recipe(), HASH, report)
    assert tracker is not None
    return tracker


def run(tracker: Tracker, folder: Path, **arguments: Any) -> None:
    """What a training does: fit, then make the bundle."""
    with tracker:
        fit([Journal(folder), Pictures(folder, None, images(2)), tracker], **arguments)
        (folder / "bundle").mkdir()
        (folder / "bundle" / "bundle.json").write_text("{}")
        (folder / "config.yaml").write_text("name: tiny\n")


def asked(uri: str, run_id: str) -> tuple[Any, dict[str, Any], set[str]]:
    """A run's data, the history of its metrics and its files, as MLflow tells them."""
    from mlflow.tracking import MlflowClient

    with tracking._quiet():
        client = MlflowClient(tracking_uri=uri)
        found = client.get_run(run_id)
        metrics: dict[str, Any] = {
            name: [(metric.step, metric.value) for metric in client.get_metric_history(run_id, name)]
            for name in found.data.metrics
        }
        files: set[str] = set()
        folders = [""]
        while folders:
            for file in client.list_artifacts(run_id, folders.pop()):
                if file.is_dir:
                    folders.append(file.path)
                else:
                    files.add(file.path)
    return found, metrics, files


FILES = {
    "config.yaml",
    "bundle/bundle.json",
    "logs/metrics.csv",
    "logs/metrics.jsonl",
    "figures/metrics_history.png",
    "figures/detailed_metrics.png",
    "figures/learning_rate.png",
    "figures/epochs/epoch_001.png",
    "figures/epochs/epoch_002.png",
}


def assert_kept(uri: str, run_id: str) -> None:
    found, metrics, files = asked(uri, run_id)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "run"
    assert found.data.params["optimizer.lr"] == "0.001"
    assert found.data.params["classes"] == '["lesion"]'
    assert found.data.params["start"] == "null"
    assert found.data.tags["data_hash"] == HASH
    assert found.data.tags["recipe"] == "tiny"
    assert metrics["tune/jaccard"] == [(1, pytest.approx(0.51)), (2, pytest.approx(0.52))]
    assert metrics["tune/precision"] == [(1, pytest.approx(float("nan"), nan_ok=True))] * 1 + [
        (2, pytest.approx(float("nan"), nan_ok=True))
    ]
    assert {"train/loss", "train/loss_bce", "tune/loss", "tune/dice", "learning_rate", "seconds"} <= metrics.keys()
    assert files == FILES


def test_a_run_is_kept_in_a_database_beside_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    folder = tmp_path / "runs" / "run"
    folder.parent.mkdir()
    tracker = opened("auto", folder)
    run(tracker, folder)
    assert_kept(f"sqlite:///{folder.parent / 'mlflow.db'}", tracker.run_id)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["mlartifacts", "mlflow.db", "run"]
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert not tracking.SETTINGS.keys() & os.environ.keys()
    told = capfd.readouterr()
    assert "mlflow" not in (told.out + told.err).lower()


def test_a_resumed_run_goes_on_in_the_same_mlflow_run(tmp_path: Path) -> None:
    folder, checkpoints = tmp_path / "run", tmp_path / "checkpoints"
    first = opened("auto", folder)
    with pytest.raises(StopError):
        run(first, folder, epochs=3, checkpoints=checkpoints, fail_at=6)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    found, metrics, files = asked(uri, first.run_id)
    assert found.info.status == "FAILED"
    assert [step for step, _ in metrics["tune/jaccard"]] == [1]
    assert not any(name.startswith("bundle") for name in files)
    second = opened("auto", folder)
    assert second.run_id == first.run_id
    run(second, folder, epochs=3, checkpoints=checkpoints, resume=True)
    found, metrics, files = asked(uri, first.run_id)
    assert found.info.status == "FINISHED"
    assert [step for step, _ in metrics["tune/jaccard"]] == [1, 2, 3]
    assert files == FILES | {"figures/epochs/epoch_003.png"}


def test_a_run_the_user_stopped_is_said_to_be(tmp_path: Path) -> None:
    tracker = opened("auto", tmp_path / "run")
    with pytest.raises(KeyboardInterrupt), tracker:
        raise KeyboardInterrupt
    assert asked(f"sqlite:///{tmp_path / 'mlflow.db'}", tracker.run_id)[0].info.status == "KILLED"


def test_a_run_that_its_mlflow_does_not_know_is_a_new_one(tmp_path: Path) -> None:
    first = opened("auto", tmp_path / "run")
    (tmp_path / "moved").mkdir()
    (tmp_path / "run").rename(tmp_path / "moved" / "run")
    second = opened("auto", tmp_path / "moved" / "run")
    assert second.run_id != first.run_id
    (tmp_path / "moved" / "run" / "logs" / "mlflow.json").write_text('{"run_')
    assert opened("auto", tmp_path / "moved" / "run").run_id not in (first.run_id, second.run_id)


def test_runs_of_one_folder_share_an_experiment(tmp_path: Path) -> None:
    runs = [opened("auto", tmp_path / name) for name in "ab"]
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    infos = [asked(uri, tracker.run_id)[0].info for tracker in runs]
    assert infos[0].experiment_id == infos[1].experiment_id
    assert [info.run_name for info in infos] == ["a", "b"]


def test_a_run_is_kept_by_a_server(tmp_path: Path, server: Server) -> None:
    folder = tmp_path / "run"
    tracker = opened(server.uri, folder)
    run(tracker, folder)
    assert_kept(server.uri, tracker.run_id)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_a_server_that_dies_costs_a_line_and_not_the_run(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    folder = tmp_path / "run"
    lines: list[str] = []
    tracker = opened(server.uri, folder, lines.append)
    send = tracker._send_epochs

    def die_after_the_first_epoch() -> None:
        if tracker._epochs:
            server.kill()
        send()

    monkeypatch.setattr(tracker, "_send_epochs", die_after_the_first_epoch)
    run(tracker, folder, epochs=4)
    assert len(lines) == 1
    assert lines[0].startswith("warning: MLflow failed, the training goes on without it: ")
    assert (folder / "figures" / "epochs" / "epoch_004.png").is_file()

    # What could not be sent is sent when the run goes on with a server that works again.
    monkeypatch.undo()
    server.start()
    assert [step for step, _ in asked(server.uri, tracker.run_id)[1]["tune/jaccard"]] == [1]
    resumed = opened(server.uri, folder)
    assert resumed.run_id == tracker.run_id
    with resumed:
        pass
    found, metrics, files = asked(server.uri, tracker.run_id)
    assert found.info.status == "FINISHED"
    assert [step for step, _ in metrics["tune/jaccard"]] == [1, 2, 3, 4]
    assert "figures/epochs/epoch_004.png" in files


def test_one_line_for_a_failure_and_one_for_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    tracker = opened("auto", tmp_path / "run", lines.append)
    log_batch, broken = tracker._client.log_batch, [True]

    def fail(*arguments: Any, **named: Any) -> None:
        if broken:
            raise OSError("the disk is full\nand more")
        log_batch(*arguments, **named)

    monkeypatch.setattr(tracker._client, "log_batch", fail)

    class Mend(Journal):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            super().on_train_epoch_end(trainer, pl_module)
            if trainer.current_epoch == 2:
                broken.clear()

    with tracker:
        fit([Mend(tmp_path / "run"), tracker], epochs=3)
    assert lines == [
        "warning: MLflow failed, the training goes on without it: the disk is full",
        "MLflow works again",
    ]
    metrics = asked(f"sqlite:///{tmp_path / 'mlflow.db'}", tracker.run_id)[1]
    assert [step for step, _ in metrics["train/loss"]] == [1, 2, 3]


def test_a_server_that_is_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(InputError) as caught:
        opened(f"http://ada:secret@127.0.0.1:{port}", tmp_path / "run")
    message = str(caught.value)
    assert message.startswith(f"MLflow at http://127.0.0.1:{port} cannot be used: ")
    assert message.endswith("; start its server, or give another URI or 'off'")
    assert "secret" not in message


def test_what_goes_wrong_by_default_costs_a_line(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database" * 100)
    lines: list[str] = []
    assert open_tracker("auto", tmp_path / "run", recipe(), HASH, lines.append) is None
    assert len(lines) == 1
    assert lines[0].startswith("the run is not tracked: MLflow at sqlite:///")


def test_without_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    lines: list[str] = []
    assert open_tracker("auto", tmp_path, recipe(), HASH, lines.append) is None
    assert lines == ["MLflow is not installed, so the run is not tracked: pip install 'dermseg[tracking]'"]
    with pytest.raises(MissingExtraError) as caught:
        open_tracker("http://127.0.0.1:5000", tmp_path, recipe(), HASH, refuse)
    assert str(caught.value) == "tracking with MLflow needs the extra 'tracking': pip install 'dermseg[tracking]'"


def test_off_is_off(tmp_path: Path) -> None:
    assert open_tracker("off", tmp_path / "run", recipe(), HASH, refuse) is None
    assert list(tmp_path.iterdir()) == []


def test_training_does_not_import_mlflow() -> None:
    code = "import sys, dermseg.training.tracking; sys.exit('mlflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_settings_are_flattened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    settings = {"a": {"b": {"c": 1e-3}, "d": [1, 2]}, "e": None, "f": "/home/ada/x.csv", "g": {}}
    assert flattened(settings) == {"a.b.c": "0.001", "a.d": "[1, 2]", "e": "null", "f": "~/x.csv", "g": "{}"}


def test_settings_of_any_size_and_name_are_kept(tmp_path: Path) -> None:
    loss = {f"a strange, näme {n}": 1.0 for n in range(150)}
    many = recipe(loss=loss, model={"name": "light", "arguments": {"text": "x" * 9000}})
    tracker = open_tracker("auto", tmp_path / "run", many, HASH, refuse)
    assert tracker is not None
    params = asked(f"sqlite:///{tmp_path / 'mlflow.db'}", tracker.run_id)[0].data.params
    assert len([name for name in params if name.startswith("loss.")]) == 150
    assert params["model.arguments.text"].startswith("xxx")


def test_the_warnings_of_mlflow_stay_with_it() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with tracking._quiet():
            warnings.warn("of MLflow", FutureWarning, stacklevel=1)
        with pytest.raises(FutureWarning):
            warnings.warn("of others", FutureWarning, stacklevel=1)
