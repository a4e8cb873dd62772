"""The published schema of reranker.json: it describes what is written, and refuses what is not."""

from __future__ import annotations

import dataclasses
import json

import pytest
from support.exported import export

from rl_rerank.config import LongDocumentsConfig
from rl_rerank.paradigms.build import make
from rl_rerank.serving import contract

Validator = pytest.importorskip("jsonschema").Draft202012Validator


def properties(*place) -> set[str]:
    found = contract.schema()
    for name in place:
        found = found[name]
    return set(found["properties"])


def names(cls) -> set[str]:
    return {field.name for field in dataclasses.fields(cls)}


def test_the_schema_is_one_and_names_every_field():
    Validator.check_schema(contract.schema())
    assert properties() == names(contract.Contract)
    assert properties("properties", "long_documents") == names(LongDocumentsConfig)
    assert properties("properties", "cross_encoder") == names(contract.CrossEncoderDoor)
    assert properties("properties", "calibration") == names(contract.Calibration)
    assert properties("properties", "golden", "items") == names(contract.GoldenScores)
    prompts = ("properties", "golden", "items", "properties", "prompts", "items")
    assert properties(*prompts) == names(contract.GoldenPrompt)
    assert contract.schema()["properties"]["version"] == {
        "const": contract.VERSION,
        "description": "Version of this schema.",
    }


@pytest.fixture(scope="module")
def folder(tiny_model_dir, tmp_path_factory):
    return export(tiny_model_dir, tmp_path_factory.mktemp("exported") / "model", make("pointwise", {}))


def test_golden_pairs_hold_prompts_log_probabilities_and_scores(folder):
    golden = json.loads((folder / contract.FILE).read_text())["golden"]
    assert [(entry["query"], tuple(entry["documents"])) for entry in golden] == list(contract.GOLDEN)
    for entry in golden:
        for prompt, score in zip(entry["prompts"], entry["scores"], strict=True):
            assert prompt["continuations"]["yes"] - prompt["continuations"]["no"] == pytest.approx(score, abs=1e-6)
            assert entry["query"] in prompt["text"] and len(prompt["token_ids"]) > 10


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"stop_ids": []}, "stop_ids"),
        ({"extra": 1}, "the whole"),
        ({"prompt_fingerprint": "short"}, "prompt_fingerprint"),
        ({"golden": [{"query": "q", "documents": ["d"], "scores": ["high"], "prompts": []}]}, "golden.0"),
    ],
)
def test_a_file_that_does_not_follow_the_schema_is_refused(folder, tmp_path, change, place):
    values = json.loads((folder / contract.FILE).read_text())
    (tmp_path / contract.FILE).write_text(json.dumps(values | change))
    with pytest.raises(ValueError, match=rf"{place}\S* does not follow reranker\.schema\.json"):
        contract.check_schema(tmp_path)
