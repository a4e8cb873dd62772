"""Started by `accelerate launch` or alone: dev queries are ranked by vLLM and by transformers, before training and
after the first step, behind which all weights are moved at random. Every process writes its values to
OUTPUT/found*.json.

    dev_by_vllm.py OUTPUT MODEL_DIR full|lora
"""

import json
import os
import random
import sys
from dataclasses import asdict, replace
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1])]

from rl_rerank.engines.local import vllm_environment  # noqa: E402

vllm_environment.apply()

import torch  # noqa: E402
from transformers import TrainerCallback  # noqa: E402

from rl_rerank import registry  # noqa: E402
from rl_rerank.engines.local import vllm  # noqa: E402
from rl_rerank.prompts.rendering import Renderer  # noqa: E402
from rl_rerank.stages.rerank.spec import RerankStage  # noqa: E402
from rl_rerank.training.grpo.vllm_rollout import RolloutEngine  # noqa: E402
from rl_rerank.training.loop import dev  # noqa: E402
from rl_rerank.types import Candidate, RankingExample  # noqa: E402
from support import small_tokenizers  # noqa: E402
from support.grpo_trainer import trainer  # noqa: E402
from support.perturbed_rollouts import COLOCATED, Perturb  # noqa: E402

PARADIGMS = {
    "listwise": {"window": 3, "stride": 2, "constrained": True},
    "pointwise": {},
    "setwise": {"children": 2, "k": 4, "mode": "scoring"},
}
"""One that generates, with constrained decoding; two that score."""


def queries():
    rng = random.Random(1)
    return [
        RankingExample(
            f"q{q}",
            f"question {q}",
            tuple(Candidate(f"q{q}d{d}", f"{rng.getrandbits(64)}", rank=d + 1) for d in range(5)),
            {f"q{q}d{q % 5}": 2, f"q{q}d{(q + 2) % 5}": 1},
        )
        for q in range(15)
    ]


class Measure(TrainerCallback):
    """Measures before training and after the first step's move; it must follow `Perturb`."""

    def __init__(self, run, renderer):
        self.run = run
        examples = queries()
        judged = {example.qid: example.qrels for example in examples}
        protocol = RerankStage(kind="rerank", seed=5)
        self.asked = {
            kind: dev.DevSet(examples, judged, registry.build("paradigm", kind, params), renderer, 4096, protocol)
            for kind, params in PARADIGMS.items()
        }
        self.found = {}

    def values(self, engine):
        return {kind: asdict(dev.measure(self.run, replace(one, engine=engine))) for kind, one in self.asked.items()}

    def on_train_begin(self, args, state, control, **_):
        self.found["before"] = {"hf": self.values("hf")}
        drawn = torch.get_rng_state()
        self.found["before"]["vllm"] = self.values("vllm")
        assert torch.equal(drawn, torch.get_rng_state())

    def on_step_end(self, args, state, control, **_):
        if state.global_step > 1:
            return
        self.found["after"] = {"hf": self.values("hf")}
        sync, llm = RolloutEngine.sync_weights, self.run.vllm_generation.llm
        RolloutEngine.sync_weights = lambda self: None
        self.found["after"]["without sync"] = self.values("vllm")
        RolloutEngine.sync_weights = sync
        llm.reset_prefix_cache = lambda: True
        self.found["after"]["without reset"] = self.values("vllm")
        del llm.reset_prefix_cache
        self.found["after"]["vllm"] = self.values("vllm")


if __name__ == "__main__":
    output, model_dir, trained = sys.argv[1:]
    tokenizer = small_tokenizers.chatml()
    arguments = vllm.borrowed_args(512, continuations=2, is_constrained=True, is_seeded=True)
    run = trainer(
        Path(model_dir),
        tokenizer,
        Path(output),
        lora=trained == "lora",
        rollout_args={"dtype": "float32", "num_gpu_blocks_override": 1024, "enforce_eager": True, **arguments},
        **COLOCATED,
    )
    measured = Measure(run, Renderer(tokenizer, max_prompt_tokens=400))
    run.add_callback(Perturb(run))
    run.add_callback(measured)
    run.train()
    gaps = [row["rollout/logprob_gap"] for row in run.state.log_history if "reward" in row]
    rank = os.environ.get("RANK", "0")
    Path(output, f"found{rank}.json").write_text(json.dumps({**measured.found, "gaps": gaps}))
