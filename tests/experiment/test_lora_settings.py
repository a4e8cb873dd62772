"""The settings of an adapter as they are written."""

import pytest

from rl_rerank.config import LoraConfig, build
from rl_rerank.experiment.compose import compose

PLACE = "stages.grpo.lora."


def composed(override):
    return compose("run", ["experiment=quickstart_tokens", f"{PLACE}{override}"]).stages["grpo"].lora


def test_target_modules_are_a_list_or_a_string():
    assert composed("target_modules=[q_proj,v_proj]").target_modules == ["q_proj", "v_proj"]
    assert build(LoraConfig, {"target_modules": ["q_proj"]}, PLACE).target_modules == ["q_proj"]
    assert build(LoraConfig, {"target_modules": r".*\.[qv]_proj"}, PLACE).target_modules == r".*\.[qv]_proj"
    assert build(LoraConfig, {}, PLACE).target_modules == "all-linear"


def test_names_without_brackets_are_refused():
    with pytest.raises(ValueError, match=r"gives several values; write a list in brackets: 'stages\.grpo\.lora\."):
        composed("target_modules=q_proj,v_proj")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("target_modules", [], r"target_modules=\[\] names no module"),
        ("target_modules", "", "target_modules='' names no module"),
        ("target_modules", ["q_proj", ""], r"target_modules=\['q_proj', ''\] names no module"),
        ("target_modules", [["q_proj"]], r"stages\.grpo\.lora\.target_modules\[0\] must be of type str"),
        ("target_modules", {"a": "b"}, r"stages\.grpo\.lora\.target_modules must be of type str"),
        ("target_modules", None, r"stages\.grpo\.lora\.target_modules must be of type str"),
        ("target_modules", "*_proj", r"target_modules='\*_proj' is no regular expression .* write a list in brackets"),
        ("r", 0, "lora: r must be at least 1; got 0"),
        ("r", [4], r"stages\.grpo\.lora\.r must be of type int"),
        ("alpha", 0, "lora: alpha must be at least 1; got 0"),
        ("dropout", 1.0, "lora: dropout must be below 1; got 1.0"),
        ("dropout", -0.1, "lora: dropout must be at least 0; got -0.1"),
    ],
)
def test_settings_that_make_no_adapter_are_refused(name, value, message):
    with pytest.raises(ValueError, match=message):
        build(LoraConfig, {name: value}, PLACE)
