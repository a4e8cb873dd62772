"""Requests that are generated from the server's own OpenAPI schema: none makes it fail, and all answers are as it says.

The packages `schemathesis` and `hypothesis` generate them, valid and invalid ones, the same in every run.
"""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance
from support.served import by_length, scripted

from rl_rerank.config import ServeLimits
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.serving.server.app import build

NUM_EXAMPLES = 60
"""Of each path and of each model."""
CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance]
MODELS = {
    "scores": by_length(Pointwise()),
    "order": scripted(Listwise(reasoning=True), lambda _: "<think>so</think><answer>[2] > [1]</answer>"),
}


@pytest.fixture(params=MODELS)
def schema(request):
    model = MODELS[request.param]
    limits = ServeLimits(body_bytes=20_000, documents=20, seconds=20)
    app = build(model, name="m", scale=model.scale, reasons=True, limits=limits)
    loaded = schemathesis.openapi.from_asgi("/openapi.json", app)
    loaded.config.generation.update(modes=list(GenerationMode))
    return loaded


fuzzed = schemathesis.pytest.from_fixture("schema")


@fuzzed.parametrize()
@settings(
    max_examples=NUM_EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_no_generated_request_makes_the_server_fail(case):
    case.call_and_validate(checks=CHECKS)
