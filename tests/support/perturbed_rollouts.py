"""Started by `accelerate launch` or alone: after the first step all weights are moved at random, far from where they
were, and the next rollouts show whether vLLM got them. Every process writes what it found to OUTPUT/found*.json.

    perturbed_rollouts.py OUTPUT MODEL_DIR=full|lora [...]
"""

import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1])]

from rl_rerank.engines.local import vllm_environment  # noqa: E402

vllm_environment.apply()

import deepspeed  # noqa: E402
import torch  # noqa: E402
from accelerate.state import AcceleratorState  # noqa: E402
from transformers import TrainerCallback  # noqa: E402

from rl_rerank.training.grpo.vllm_rollout import RolloutEngine  # noqa: E402
from support import small_tokenizers  # noqa: E402
from support.grpo_trainer import trainer  # noqa: E402


class Perturb(TrainerCallback):
    """Adds noise to every trained weight after the first step; the next sync must carry it to vLLM."""

    def __init__(self, run):
        self.run = run

    def on_step_end(self, args, state, control, **_):
        if state.global_step > 1:
            return
        before = self.log_probs()
        generator = torch.Generator().manual_seed(7)
        for weight in (p for p in self.run.model.parameters() if p.requires_grad):
            is_sharded = hasattr(weight, "ds_id")
            whole = deepspeed.zero.GatheredParameters([weight], modifier_rank=0) if is_sharded else nullcontext()
            with whole, torch.no_grad():
                if weight.numel():  # under ZeRO-3 the first process alone may change it
                    weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
        self.moved = (self.log_probs() - before).abs().max().item()

    def log_probs(self):
        with torch.no_grad():
            ids = torch.arange(20, 60).unsqueeze(0)
            return torch.log_softmax(self.run.model(ids).logits.float(), -1)


COLOCATED = {
    "use_vllm": True,
    "vllm_mode": "colocate",
    "vllm_max_model_length": 512,
    "vllm_importance_sampling_mode": "token_truncate",
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "steps_per_generation": 1,
    "max_steps": 2,
}
"""Arguments of two steps, each on samples of its own, with a vLLM in the trainer's process."""


def gaps(model_dir, output, settings):
    run = trainer(
        Path(model_dir),
        small_tokenizers.chatml(),
        Path(output),
        # Several engines, so small ones that compile nothing.
        rollout_args={"dtype": "float32", "num_gpu_blocks_override": 64, "enforce_eager": True},
        **COLOCATED,
        **settings,
    )
    perturb = Perturb(run)
    run.add_callback(perturb)
    try:
        run.train()
    except ValueError as e:
        return {"refused": str(e)}
    rows = [row for row in run.state.log_history if "reward" in row]
    old = sum(row["time/old"] for row in run.state.log_history if "time/old" in row)
    return {"moved": perturb.moved, "gaps": [row["rollout/logprob_gap"] for row in rows], "old": old}


if __name__ == "__main__":
    output, *asked = sys.argv[1:]
    models = [one.rpartition("=") for one in asked]
    found = {}
    for model_dir, _, trained in models:
        AcceleratorState._reset_state(reset_partial_state=False)
        settings = {"lora": True} if trained == "lora" else {}
        found[f"{Path(model_dir).name}-{trained}"] = gaps(model_dir, output, settings)
    RolloutEngine._pack_head = lambda self, model: None
    AcceleratorState._reset_state(reset_partial_state=False)
    found["stale head"] = gaps(models[0][0], output, {})
    rank = os.environ.get("RANK", "0")
    Path(output, f"found{rank}.json").write_text(json.dumps(found))
