"""Started alone: one engine, to which weights are sent with a single value changed on the way, one layer after another.

    planted_syncs.py OUTPUT MODEL_DIR full|lora DTYPE

OUTPUT.json gets what the comparison behind each sync said; null where it found no difference.
"""

import json
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1])]

from rl_rerank.engines.local import vllm_environment  # noqa: E402

vllm_environment.apply()

import torch  # noqa: E402

from rl_rerank.training.grpo import vllm_rollout  # noqa: E402
from rl_rerank.training.grpo.vllm_rollout import RolloutEngine  # noqa: E402
from support import small_tokenizers  # noqa: E402
from support.grpo_trainer import trainer  # noqa: E402
from support.perturbed_rollouts import COLOCATED  # noqa: E402

COPIES = RolloutEngine._copies


def planted(name):
    """Send the weight `name` with its last value moved to the next larger number; 0 to the smallest normal one.

    A CPU's products of bfloat16 take smaller numbers as 0, so such a change changes no logit and cannot be seen.
    """

    def copies(self):
        for one, weight in COPIES(self):
            if one == name:
                last = weight.view(-1)[-1:]
                next_one = torch.nextafter(last.to(dtype), torch.tensor(torch.inf, dtype=dtype))
                last.copy_(next_one if last != 0 else torch.full_like(next_one, torch.finfo(dtype).tiny))
            yield one, weight

    return copies


def said(engine):
    engine._syncs = 0  # every sync is checked
    try:
        engine.sync_weights()
    except ValueError as e:
        return str(e)
    return None


if __name__ == "__main__":
    output, model_dir, trained, type_name = sys.argv[1:]
    dtype = getattr(torch, type_name)
    settings = {"dtype": type_name, "num_gpu_blocks_override": 64, "enforce_eager": True}
    run = trainer(
        Path(model_dir),
        small_tokenizers.chatml(),
        Path(output).parent,
        lora=trained == "lora",
        rollout_args=settings,
        **COLOCATED,
    )
    engine = run.vllm_generation
    with torch.no_grad():
        for weight in run.model.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(7)))
    found = {"none": said(engine)}
    for name in [name for name, _ in engine._iter_named_params()]:
        RolloutEngine._copies = planted(name)
        found[name] = said(engine)
    RolloutEngine._copies = COPIES
    found["none, again"] = said(engine)
    RolloutEngine._pack_head = lambda self, model: None
    with torch.no_grad():
        for weight in run.model.parameters():
            if weight.requires_grad:
                weight.mul_(1.01)
    found["head not packed"] = said(engine)
    assert vllm_rollout.CHECKED_EVERY > 1
    engine._syncs = 1
    engine.sync_weights()  # not checked
    Path(output).write_text(json.dumps(found))
