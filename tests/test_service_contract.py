"""The service against its own description: right and wrong requests made from `/openapi.json`, and their answers."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.core.result import Ok
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi.checks import positive_data_acceptance

from dermseg.bundle import Bundle
from tests.hostile import HOSTILE
from tests.service import PROBLEM, Service, disc, serving, two_classes, without

CASES = int(os.environ.get("DERMSEG_CASES", "5000"))
TAKES_FILES = {"/segment", "/segment/batch", "/evaluate", "/predict", "/segmentation"}


def files() -> st.SearchStrategy[bytes]:
    """Photographs, whole and cut, odd ones, and what is none."""
    whole = st.sampled_from([disc(9, size)[0] for size in ((1, 1), (64, 48), (100, 128))])
    cut = st.builds(lambda content, size: content[:size], whole, st.integers(0, 400))
    odd = st.sampled_from([make() for make, _ in HOSTILE.values()])
    return st.one_of(whole, cut, odd, st.binary(max_size=200))


@pytest.fixture(scope="module")
def service(dark_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Serves two classes; without torch, which the explanation of this bundle would need."""
    folder = tmp_path_factory.mktemp("service")
    bundle = two_classes(dark_bundle, folder)
    with serving("--bundle", bundle.path, environment=without(folder, "torch")) as running:
        yield running


@pytest.fixture
def schema(service: Service) -> BaseSchema:
    """The description, with the names that this service knows where any may be tried."""
    schemathesis.openapi.format("binary", files())
    document: dict[str, Any] = httpx.get(f"{service.url}/openapi.json", trust_env=False).json()
    known = {"bundle": ["two"], "attribute": ["lesion", "bright"]}
    for path in document["paths"].values():
        for parameter in path.get("post", {}).get("parameters", ()):
            if names := known.get(parameter["name"]):
                parameter["schema"] = {"enum": names}
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=service.url)
    schema.config.checks.not_a_server_error.expected_statuses = ["2xx", "4xx", "501", "503", "504"]
    return schema


def check(schema: BaseSchema, cases: int) -> None:
    """Try each address, those that take files with so many requests together, half of which are right in form."""
    statuses = Counter[int]()
    for result in schema.get_all_operations():
        assert isinstance(result, Ok)
        operation = result.ok()
        if operation.path in TAKES_FILES:
            for mode in GenerationMode:
                check_operation(operation, mode, cases // (2 * len(TAKES_FILES)), statuses)
        else:
            check_operation(operation, GenerationMode.POSITIVE, 1, statuses)
    assert sum(statuses.values()) >= cases
    assert {200, 415, 422} <= set(statuses)


def check_operation(
    operation: APIOperation[Any, Any, Any, Any], mode: GenerationMode, cases: int, statuses: Counter[int]
) -> None:
    @settings(max_examples=cases, deadline=None, database=None, derandomize=True, suppress_health_check=[*HealthCheck])
    @given(case=operation.as_strategy(generation_mode=mode))
    def answer(case: Case[Any]) -> None:
        response = case.call()
        statuses[response.status_code] += 1
        # A file that fits the description need not be an image.
        case.validate_response(response, excluded_checks=[positive_data_acceptance])
        if response.status_code >= 400:
            assert response.headers["content-type"] == [PROBLEM]
            assert response.json()["status"] == response.status_code

    answer()


def test_the_service_is_as_it_is_described(schema: BaseSchema) -> None:
    check(schema, 200)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_service_is_as_it_is_described_at_length(schema: BaseSchema) -> None:
    """`DERMSEG_CASES` is the number of requests."""
    check(schema, CASES)
