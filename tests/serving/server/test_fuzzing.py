"""Requests that are generated from the server's own OpenAPI schema: none makes it fail, and answers are as it says.

schemathesis generates them, valid and invalid ones, the same in every run.
"""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)
from support.served import by_length, listening, scripted

from rl_rerank.config import ServeLimits
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.paradigms.pointwise import Pointwise

NUM_EXAMPLES = 50
"""Of each path, each model, and valid or invalid."""
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
MODELS = {
    "scores": by_length(Pointwise()),
    "order": scripted(Listwise(reasoning=True), lambda _: "<think>so</think><answer>[2] > [1]</answer>"),
}


@pytest.fixture(scope="module", params=MODELS)
def schema(request):
    limits = ServeLimits(body_bytes=20_000, documents=20, seconds=20)
    with listening(MODELS[request.param], limits=limits) as url:
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")


@pytest.mark.slow
@pytest.mark.parametrize("mode", GenerationMode, ids=lambda mode: mode.value)
@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank", "/score"])
def test_no_generated_request_makes_the_server_fail(schema, path, mode):
    checks = [*CHECKS, negative_data_rejection] if mode == GenerationMode.NEGATIVE else CHECKS
    statuses = set()

    @settings(
        max_examples=NUM_EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=schema[path]["POST"].as_strategy(generation_mode=mode))
    def ask(case):
        response = case.call()
        statuses.add(response.status_code)
        case.validate_response(response, checks=checks)

    ask()
    assert statuses
