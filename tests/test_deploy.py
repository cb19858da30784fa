"""What carries the service to other machines: the image, its compositions and manifests, and what watches it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate
import numpy as np
import promql_parser
import pytest
import typer
import yaml
from dockerfile_parse import DockerfileParser
from fastapi.routing import APIRoute
from prometheus_client.parser import text_string_to_metric_families

from dermseg import Segmenter
from dermseg.cli.main import app
from dermseg.imaging import encode_image, read_mask
from dermseg.serving.api import router
from dermseg.serving.monitoring import Metrics
from dermseg.synthetic import example

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
SERVER_MARGIN = 2  # seconds that the server adds to --drain
MANIFESTS = sorted(
    path
    for path in KUBERNETES.glob("*.yaml")
    if path.name not in ("kustomization.yaml", "prometheus-adapter.yaml", "podmonitor.yaml")
)


# ---- The image --------------------------------------------------------------------------------------------------


@dataclass
class Stage:
    """One stage of the Dockerfile, as (instruction, value) in order."""

    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def values(self, instruction: str) -> list[str]:
        return [value for name, value in self.steps if name == instruction]


def stages() -> dict[str, Stage]:
    found: dict[str, Stage] = {}
    for step in DockerfileParser(str(ROOT / "Dockerfile")).structure:
        name, value = step["instruction"], step["value"]
        if name == "FROM":
            base, _, alias = value.split()
            found[alias] = Stage(base)
        elif found and name != "COMMENT":
            list(found.values())[-1].steps.append((name, value))
    return found


STAGES = stages()


def inherited(stage: str, instruction: str) -> str:
    """The last value of an instruction, the stage's own or its base's."""
    own = STAGES[stage].values(instruction)
    return own[-1] if own else inherited(STAGES[stage].base, instruction)


def environment(stage: str) -> dict[str, str]:
    return dict(word.split("=", 1) for value in STAGES[stage].values("ENV") for word in shlex.split(value))


def copied() -> list[str]:
    """What is taken from the repository."""
    lines = [shlex.split(value) for stage in STAGES.values() for value in stage.values("COPY")]
    return [source for words in lines if not words[0].startswith("--from") for source in words[:-1]]


def healthcheck(stage: str) -> list[str]:
    command: list[str] = json.loads(inherited(stage, "HEALTHCHECK").split("CMD", 1)[1])
    return command


def script(name: str) -> str:
    return str(Path(sysconfig.get_path("scripts")) / name)


def routes() -> set[str]:
    return {route.path for route in router.routes if isinstance(route, APIRoute)}


def test_the_image_that_is_built_by_default_is_the_service() -> None:
    assert list(STAGES)[-1] == "service"
    assert json.loads(inherited("service", "CMD"))[0] == "serve"
    assert json.loads(inherited("app", "CMD"))[0] == "app"


@pytest.mark.parametrize("stage", ["service", "app"])
def test_the_process_is_no_root_and_gets_the_signal_itself(stage: str) -> None:
    user = inherited(stage, "USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), "Kubernetes knows only from a number that it is not root"
    assert json.loads(inherited(stage, "ENTRYPOINT")) == ["dermseg"]
    assert inherited(stage, "STOPSIGNAL") == "SIGTERM"
    assert environment("runtime")["HOME"] == "/tmp", "the one folder that may be written to"


def test_what_the_image_needs_exists_and_nothing_else_reaches_the_builder() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert sorted(allowed) == sorted(copied())
    assert all((ROOT / source).exists() for source in copied())


def test_the_service_has_the_extra_it_needs_and_no_other() -> None:
    for stage, extra in ("service-environment", "serve"), ("app-environment", "app"):
        assert re.findall(r"\[(\w+)\]", " ".join(STAGES[stage].values("RUN"))) == [extra]
        assert "-c /constraints.txt" in " ".join(STAGES[stage].values("RUN"))


# ---- Commands and probes ----------------------------------------------------------------------------------------


def composition() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return loaded


def manifest(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((KUBERNETES / f"{name}.yaml").read_text())
    return loaded


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = manifest("deployment")["spec"]["template"]["spec"]
    return spec


def cloud_run() -> dict[str, Any]:
    spec: dict[str, Any] = yaml.safe_load((DEPLOY / "cloudrun/service.yaml").read_text())["spec"]["template"]["spec"]
    return spec


def render() -> dict[str, Any]:
    service: dict[str, Any] = yaml.safe_load((ROOT / "render.yaml").read_text())["services"][0]
    return service


COMMANDS = {
    "image of the service": json.loads(inherited("service", "CMD")),
    "image of the app": json.loads(inherited("app", "CMD")),
    "compose": composition()["services"]["app"]["command"],
    "Kubernetes": pod()["containers"][0]["args"],
    "Cloud Run": cloud_run()["containers"][0]["args"],
}


def command(name: str) -> typer.core.TyperCommand:
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    found = group.commands[name]
    assert isinstance(found, typer.core.TyperCommand)
    return found


def variables(name: str) -> set[str]:
    return {option.envvar for option in command(name).params if isinstance(option.envvar, str)}


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS.keys())
def test_every_command_is_one_that_dermseg_takes(arguments: list[str]) -> None:
    name, *options = arguments
    taken = command(name).make_context(name, list(options)).params
    assert taken["host"] == "0.0.0.0"


def test_every_variable_is_one_that_dermseg_reads() -> None:
    services = composition()["services"]
    given = {
        *services["api"]["environment"],
        *(entry["name"] for entry in pod()["containers"][0]["env"]),
        *(entry["name"] for entry in cloud_run()["containers"][0]["env"]),
        *(entry["key"] for entry in render()["envVars"]),
    }
    assert given <= variables("serve")
    assert set(services["app"]["environment"]) <= variables("app")
    assert set(environment("service")) <= variables("serve")


def test_every_probe_asks_for_an_address_of_the_service() -> None:
    probed = set(re.findall(r"'GET', '(\S+?)'", " ".join(healthcheck("service"))))
    for container in pod()["containers"][0], cloud_run()["containers"][0]:
        probed |= {probe["httpGet"]["path"] for name, probe in container.items() if name.endswith("Probe")}
    probed.add(render()["healthCheckPath"])
    assert probed == {"/health/live", "/health/ready"}
    assert probed <= routes()


def test_ports_agree() -> None:
    front = yaml.safe_load((DEPLOY / "huggingface/README.md").read_text().split("---")[1])
    assert front["sdk"] == "docker"
    assert str(front["app_port"]) == environment("service")["PORT"] == inherited("service", "EXPOSE")
    assert environment("app")["PORT"] == inherited("app", "EXPOSE")
    services = composition()["services"]
    assert services["api"]["ports"] == [f"127.0.0.1:8000:{services['api']['environment']['PORT']}"]
    assert services["app"]["ports"] == [f"127.0.0.1:8501:{environment('app')['PORT']}"]
    container = pod()["containers"][0]
    assert {"name": "PORT", "value": str(container["ports"][0]["containerPort"])} in container["env"]


def test_everybody_waits_longer_than_the_service_drains() -> None:
    def drain(arguments: list[str]) -> float:
        return float(command("serve").make_context("serve", arguments[1:]).params["drain"]) + SERVER_MARGIN

    pause = int(pod()["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod()["terminationGracePeriodSeconds"] > pause + drain(COMMANDS["Kubernetes"])
    default = drain(COMMANDS["image of the service"])
    assert int(composition()["services"]["api"]["stop_grace_period"].rstrip("s")) > default
    assert render()["maxShutdownDelaySeconds"] > default
    assert drain(COMMANDS["Cloud Run"]) < 10, "Cloud Run ends an instance 10 s after SIGTERM"


def test_a_gateway_waits_longer_than_an_answer_may_take() -> None:
    taken = command("serve").make_context("serve", list(COMMANDS["Cloud Run"][1:])).params
    assert cloud_run()["timeoutSeconds"] > taken["upload_timeout"] + taken["deadline"]


def test_no_pod_starts_without_a_token() -> None:
    (token,) = (entry for entry in pod()["containers"][0]["env"] if entry["name"] == "DERMSEG_TOKEN")
    assert not token["valueFrom"]["secretKeyRef"].get("optional")
    text = (ROOT / "docs/deployment.md").read_text()
    name = token["valueFrom"]["secretKeyRef"]["name"]
    steps = ["apply -f deploy/kubernetes/namespace.yaml", f"create secret generic {name}", "apply -k deploy/kubernetes"]
    places = [text.index(step) for step in steps]
    assert places == sorted(places)


def test_an_empty_variable_is_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a composition gives it where its own environment has none."""
    monkeypatch.setenv("DERMSEG_TOKEN", "")
    for name in ("serve", "app"):
        assert command(name).make_context(name, []).params["token"] is None


# ---- Compositions and manifests ---------------------------------------------------------------------------------


def test_the_composition_is_one_by_the_specification() -> None:
    check = [script("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(ROOT / "docker-compose.yml")]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", composition()["services"])
def test_every_container_may_do_little(name: str) -> None:
    service = composition()["services"][name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"memory", "pids"} <= set(service["deploy"]["resources"]["limits"])
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert "build" in service or re.search(r":v?\d+\.\d+\.\d+$", service["image"]), "a version, not latest"


def test_what_a_composition_mounts_is_there() -> None:
    volumes = [volume for service in composition()["services"].values() for volume in service.get("volumes", [])]
    sources = [volume.split(":")[0] for volume in volumes]
    assert all((ROOT / source).is_dir() for source in sources if source.startswith("."))
    assert {source for source in sources if not source.startswith(".")} == set(composition()["volumes"])


def test_the_tracking_server_is_the_clients_version() -> None:
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    assert composition()["services"]["mlflow"]["image"].endswith(f":v{pinned['mlflow']}")


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_a_manifest_is_one_by_kubernetes_own_schema(path: Path) -> None:
    kubernetes_validate.validate(yaml.safe_load(path.read_text()), "1.30", strict=True)


def test_cloud_runs_container_is_one_by_kubernetes_schema() -> None:
    spec = {"containers": cloud_run()["containers"]}
    kubernetes_validate.validate(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec}, "1.30", strict=True
    )


def test_all_manifests_are_applied() -> None:
    assert sorted(manifest("kustomization")["resources"]) == [path.name for path in MANIFESTS]


def test_manifests_name_each_other() -> None:
    deployment, labels = manifest("deployment"), manifest("deployment")["metadata"]["labels"]
    assert deployment["spec"]["template"]["metadata"]["labels"] == labels
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert manifest("service")["spec"]["selector"] == labels
    assert manifest("disruption-budget")["spec"]["selector"]["matchLabels"] == labels
    assert manifest("network-policy")["spec"]["podSelector"]["matchLabels"] == labels
    assert manifest("podmonitor")["spec"]["selector"]["matchLabels"] == labels
    assert manifest("autoscaler")["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert manifest("kustomization")["namespace"] == manifest("namespace")["metadata"]["name"]
    assert manifest("kustomization")["images"][0]["name"] == pod()["containers"][0]["image"]


def test_the_pod_is_allowed_where_pods_are_restricted() -> None:
    container, user = pod()["containers"][0], inherited("service", "USER").split(":")[0]
    assert pod()["securityContext"]["runAsNonRoot"]
    assert pod()["securityContext"]["runAsUser"] == int(user)
    assert pod()["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == [environment("runtime")["HOME"]]


# ---- What watches it --------------------------------------------------------------------------------------------


def expressions() -> Iterator[str]:
    """Every expression of the dashboard, the alerts and the autoscaler's rule."""
    dashboard = json.loads((DEPLOY / "grafana/dashboards/dermseg.json").read_text())
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel.get("targets", []))
    for group in yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"]:
        yield from (rule["expr"] for rule in group["rules"])
    for rule in manifest("prometheus-adapter")["rules"]["custom"]:
        yield rule["seriesQuery"]
        yield (
            rule["metricsQuery"]
            .replace("<<.GroupBy>>", "pod")
            .replace("<<.Series>>", rule["name"]["as"])
            .replace("<<.LabelMatchers>>", "")
        )


def selectors(node: object) -> Iterator[tuple[str, set[str]]]:
    """The metrics in a parsed expression, each with the labels it is selected by."""
    if isinstance(node, promql_parser.VectorSelector):
        assert node.name is not None
        yield node.name, {matcher.name for matcher in node.matchers.matchers}
    for name in ("lhs", "rhs", "expr", "args", "vector_selector"):
        child = getattr(node, name, None)
        for one in child if isinstance(child, list) else [child]:
            if one is not None:
                yield from selectors(one)


def measured() -> dict[str, set[str]]:
    """Every sample of a service that has answered, with its labels."""
    metrics = Metrics()
    metrics.request("/segment", "POST", 200, 0.1)
    metrics.stage("network", 0.1)
    metrics.batch(1)
    families = text_string_to_metric_families(metrics.render()[0].decode())
    return {sample.name: set(sample.labels) for family in families for sample in family.samples}


OF_PROMETHEUS = {"job", "instance", "namespace", "pod"}
"""Labels that scraping adds."""


@pytest.mark.parametrize("expression", sorted(set(expressions())))
def test_every_expression_asks_for_metrics_that_there_are(expression: str) -> None:
    there = {"up": set[str](), **measured()}
    asked = list(selectors(promql_parser.parse(expression.replace("$__rate_interval", "5m"))))
    assert asked
    for name, labels in asked:
        assert name in there
        assert labels <= there[name] | OF_PROMETHEUS


def test_the_autoscaler_asks_for_what_the_adapter_gives() -> None:
    asked = [metric["pods"]["metric"]["name"] for metric in manifest("autoscaler")["spec"]["metrics"][:1]]
    assert asked == [rule["name"]["as"] for rule in manifest("prometheus-adapter")["rules"]["custom"]]


def test_the_dashboard_is_sound() -> None:
    dashboard = json.loads((DEPLOY / "grafana/dashboards/dermseg.json").read_text())
    source = yaml.safe_load((DEPLOY / "grafana/datasources/prometheus.yml").read_text())["datasources"][0]
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        assert panel["title"]
        assert panel["datasource"] == {"type": source["type"], "uid": source["uid"]}
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
        assert not cells & taken, f"{panel['title']} lies on another panel"
        taken |= cells


def test_alerts_say_what_is_wrong() -> None:
    for group in yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in ("page", "ticket")
            assert rule["annotations"]["summary"]


# ---- The documentation ------------------------------------------------------------------------------------------


def test_the_table_of_settings_is_the_commands() -> None:
    text = (ROOT / "docs/deployment.md").read_text()
    rows = re.findall(r"^\| `(--[\w-]+)` \| (?:`(\w+)`)? *\|", text, re.MULTILINE)
    options = [option for option in command("serve").params if option.name != "help"]
    assert sorted(rows) == sorted((option.opts[0], option.envvar or "") for option in options)


@pytest.mark.parametrize("path", ["docs/deployment.md", "deploy/huggingface/README.md", "Dockerfile"])
def test_it_is_said_what_this_is_not(path: str) -> None:
    assert "not a medical device" in (ROOT / path).read_text()


# ---- The image's steps, without a container ---------------------------------------------------------------------


def build(root: Path, *names: str) -> None:
    """Run the steps of stages below a folder in place of ``/``: what ``docker build`` does, but for the isolation."""
    below = re.compile(r"(?<![\w./])/(?=opt/dermseg|wheels|constraints\.txt|source)")
    for name in names:
        folder = root
        for instruction, value in STAGES[name].steps:
            if instruction == "WORKDIR":
                folder = root / value.lstrip("/")
                folder.mkdir(parents=True)
            elif instruction == "COPY" and not value.startswith("--from"):
                *sources, target = shlex.split(value)
                for source in sources:
                    place = folder / target.lstrip("/")
                    if (ROOT / source).is_dir():
                        shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
                    else:
                        shutil.copy(ROOT / source, place)
            elif instruction == "RUN":
                line = below.sub(f"{root}/", re.sub(r"--mount=\S+", "", value))
                subprocess.run(line, shell=True, check=True, cwd=folder, env=os.environ | {"PATH": search_path()})


def search_path() -> str:
    return f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_steps_of_the_image_give_a_service_that_starts_answers_and_stops(tmp_path: Path) -> None:
    build(tmp_path, "wheel", "environment", "service-environment")
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    home.mkdir(mode=0o555)
    temporary.mkdir()
    programs = tmp_path / "opt/dermseg/bin"
    packages = {path.name for path in (tmp_path / "opt/dermseg").rglob("site-packages/*")}
    assert not packages & {"torch", "scipy", "pandas", "streamlit", "pip"}

    variables = environment("runtime") | {
        "PATH": str(programs),
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "PORT": str(free_port()),
        "DERMSEG_TOKEN": "secret",
    }
    address = f"http://127.0.0.1:{variables['PORT']}"
    words = json.loads(inherited("service", "ENTRYPOINT")) + json.loads(inherited("service", "CMD"))
    check = [str(programs / "python"), *healthcheck("service")[1:]]
    with subprocess.Popen([str(programs / words[0]), *words[1:]], cwd=home, env=variables) as server:
        try:
            for _ in range(120):
                if subprocess.run(check, env=variables, stderr=subprocess.DEVNULL, check=False).returncode == 0:
                    break
                time.sleep(0.5)
            photograph = encode_image(example().pixels, "PNG")
            assert httpx.post(f"{address}/segment", files={"file": photograph}).status_code == 401
            answer = httpx.post(
                f"{address}/segment", files={"file": photograph}, headers={"Authorization": "Bearer secret"}, timeout=60
            )
            assert answer.status_code == 200, answer.text
            assert np.mean(read_mask(answer.content) == Segmenter()(photograph).mask) > 0.999
        finally:
            server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=60) == 0
    assert not list(home.iterdir())
    assert not list(temporary.iterdir())
    assert subprocess.run(check, env=variables, stderr=subprocess.DEVNULL, check=False).returncode != 0
