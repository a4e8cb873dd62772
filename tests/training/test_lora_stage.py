"""A stage that trains an adapter: one model in the engine, in the checkpoint, as NAME@STEP and as saved."""

import shutil

import pytest
import torch
from accelerate import Accelerator
from peft import PeftModel
from safetensors.torch import load_file
from support import three_candidates

from rl_rerank.engines.local import checkpoint
from rl_rerank.experiment.compose import compose
from rl_rerank.stages.grpo import run as grpo_stage
from rl_rerank.stages.sft import run as sft_stage

REWARD = """\
class Letters:
    def __call__(self, example, rollout):
        return sum(c.isalpha() for c in rollout.completion.text) / (1 + len(rollout.completion.text))
"""


def composed(tmp_path, tiny_model_dir, *overrides):
    three_candidates.write(tmp_path, 6, dev=0)
    (tmp_path / "mine.py").write_text(REWARD)
    return compose(
        "run",
        [
            *("experiment=quickstart_tokens", "budget=tokens_smoke"),
            *("data=jsonl", f"data.path={tmp_path / 'data.jsonl'}"),
            *(f"run_dir={tmp_path / 'run'}", f"model.path={tiny_model_dir}", "model.max_prompt_tokens=400"),
            *(f"reward=[{tmp_path / 'mine.py'}:Letters]", "stages.grpo.model=model", "stages.grpo.max_steps=4"),
            *("stages.grpo.save_steps=2", "stages.grpo.learning_rate=1e-2", "stages.grpo.warmup_ratio=0"),
            *("report_to=[]", "stages.grpo.lora.r=4", *overrides),
        ],
    )


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.parametrize(
    ("dtype", "targets", "adapted"), [("float32", "all-linear", 14), ("bfloat16", "[q_proj,v_proj]", 4)]
)
def test_engine_checkpoint_step_and_saved_model_are_one(tiny_model_dir, tmp_path, monkeypatch, dtype, targets, adapted):
    from rl_rerank.training.grpo.vllm_rollout import RolloutEngine, vllm_generation

    synced, logits = {}, []
    ids = torch.arange(3, 40)[None]

    def save_trained(trainer, *args, **settings):
        engine = RolloutEngine.__new__(RolloutEngine)  # without an LLM
        engine.model, engine._dist = trainer.model, vllm_generation.DistributedBackend(Accelerator(cpu=True))
        synced.update((name, weight.clone()) for name, weight in engine._iter_named_params())
        with torch.no_grad():
            logits.append(trainer.model.eval()(ids).logits)
        save(trainer, *args, **settings)

    save = grpo_stage.save_trained
    monkeypatch.setattr(grpo_stage, "save_trained", save_trained)
    config = composed(tmp_path, tiny_model_dir, f"model.dtype={dtype}", f"stages.grpo.lora.target_modules={targets}")
    grpo_stage.run(config, "grpo", config.stages["grpo"])

    base = checkpoint.load_model(tiny_model_dir, dtype)
    adapter = PeftModel.from_pretrained(base, str(tmp_path / "run/grpo/checkpoints/checkpoint-4"))
    with torch.no_grad():
        logits.append(adapter(ids).logits)
    saved = load_file(tmp_path / "run/grpo/model/model.safetensors")
    step = load_file(checkpoint.locate(config, "grpo@4") / "model.safetensors")
    start = load_file(tiny_model_dir / "model.safetensors")
    moved = 0
    for name, weight in synced.items():
        moved += bool((weight - start[name].to(weight.dtype)).abs().max() > 1e-3)
        sent = weight.to(getattr(torch, dtype))  # as the engine computes in the model's dtype
        assert torch.equal(sent, saved[name]), name
        assert torch.equal(sent, step[name]), name
    assert synced.keys() == saved.keys() == step.keys()
    assert moved == adapted
    with torch.no_grad():
        logits.append(checkpoint.load_model(tmp_path / "run/grpo/model", dtype)(ids).logits)
    trained, kept, merged = logits
    # The trained model and the checkpoint add the adapter to the activations, the saved one to the weights.
    assert torch.allclose(trained, kept, atol=1e-6)
    assert torch.allclose(trained, merged, atol=1e-5 if dtype == "float32" else 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sft", "grpo"])
def test_a_stage_refuses_modules_that_its_model_lacks_before_it_reads_weights(tiny_model_dir, tmp_path, kind):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_dir, folder)
    (folder / "model.safetensors").write_bytes(b"")
    config = composed(tmp_path, folder, f"stages.{kind}.lora.target_modules=[q_proj,w1]")
    with pytest.raises(
        ValueError, match=rf"^stages\.{kind}\.lora\.target_modules=\[q_proj,w1\]: .* no module w1; it has"
    ):
        {"sft": sft_stage, "grpo": grpo_stage}[kind].run(config, kind, config.stages[kind])
