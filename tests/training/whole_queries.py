"""GRPO with a reward of whole queries under every admitted layout of a batch, alone or by a launcher.

Writes, for each process and layout, which documents and how many completions the reward saw of each query.
"""

import json
import os
import sys
from pathlib import Path

import torch
from accelerate.state import AcceleratorState
from datasets import Dataset
from transformers import AutoModelForCausalLM
from trl import GRPOConfig

sys.path[:0] = [str(Path(__file__).parent.parent)]

import tokenizers_for_tests  # noqa: E402

from rl_rerank.batches import batches, whole_queries  # noqa: E402
from rl_rerank.config import Config, GRPOStage  # noqa: E402
from rl_rerank.paradigms.pointwise_graded import PointwiseGraded  # noqa: E402
from rl_rerank.rendering import Renderer  # noqa: E402
from rl_rerank.reward import Term  # noqa: E402
from rl_rerank.training.grpo import RankingGRPOTrainer  # noqa: E402
from rl_rerank.training.questions import questions  # noqa: E402
from rl_rerank.training.task import Task  # noqa: E402
from rl_rerank.types import Candidate, RankingExample  # noqa: E402

DOCUMENTS, GENERATIONS, STEPS = 6, 2, 2
PARADIGM = PointwiseGraded(documents=DOCUMENTS)


class Seen:
    """Notes what it is shown; pays for the place in the query, so that a mix-up shows in the advantages."""

    def __init__(self) -> None:
        self.calls = []

    def score_all(self, example, rollouts):
        self.calls.append([example.qid, [rollout.prompt.docids[0] for rollout in rollouts]])
        return [float(place) for place in range(len(rollouts))]


def layouts(world: int) -> list[tuple[int, int]]:
    """(prompts_per_step, micro_batch) of every step of one or two queries that the configuration admits."""
    found = []
    for queries in (1, 2):
        for micro in range(GENERATIONS, 2 * DOCUMENTS * GENERATIONS + 1, GENERATIONS):
            stage = GRPOStage(
                kind="grpo", prompts_per_step=queries * DOCUMENTS, num_generations=GENERATIONS, micro_batch=micro
            )
            try:
                step = batches(Config(), "grpo", stage, world)
            except ValueError:
                continue
            if (layout := (stage.prompts_per_step, step.micro_batch)) not in found:
                found.append(layout)
    return found


def examples() -> list[RankingExample]:
    return [
        RankingExample(f"q{q}", f"query {q}", tuple(Candidate(f"q{q}d{d}", "text") for d in range(7)), {f"q{q}d0": 1})
        for q in range(5)
    ]


def train(model_dir: str, output: Path, prompts: int, micro: int, world: int) -> list:
    tokenizer = tokenizers_for_tests.chatml()
    seen = Seen()
    stage = GRPOStage(kind="grpo", prompts_per_step=prompts, num_generations=GENERATIONS, micro_batch=micro)
    terms = [Term("seen", seen)]
    per_query = whole_queries("grpo", stage, terms, PARADIGM)
    renderer = Renderer(tokenizer, max_prompt_tokens=200)
    asked = questions(examples(), PARADIGM, renderer, count=STEPS * prompts, seed=1, per_query=per_query)
    steps = prompts * GENERATIONS // (micro * world)
    args = GRPOConfig(
        output_dir=str(output),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=steps,
        steps_per_generation=steps,
        num_generations=GENERATIONS,
        max_completion_length=4,
        max_steps=STEPS,
        shuffle_dataset=False,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        save_strategy="no",
        logging_steps=1,
        remove_unused_columns=False,
        disable_tqdm=True,
    )
    run = RankingGRPOTrainer(
        task=Task(asked, PARADIGM, terms),
        model=AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32),
        args=args,
        train_dataset=Dataset.from_dict({"prompt": [str(i) for i in range(len(asked))]}),
        processing_class=tokenizer,
    )
    run._generate_single_turn = lambda prompt_ids, *_, **__: (
        [[20, 21, run.eos_token_ids[0]] for _ in prompt_ids],
        None,
    )
    run.train()
    rows = [[row["qid"], row["docids"][0], row["reward"]] for row in run.completions]
    logged = {k: v for row in run.state.log_history for k, v in row.items() if k.startswith("rewards/")}
    return [seen.calls, rows, logged]


if __name__ == "__main__":
    world, rank = (int(os.environ.get(name, default)) for name, default in (("WORLD_SIZE", "1"), ("RANK", "0")))
    folder = Path(sys.argv[2])
    found = {}
    for prompts, micro in layouts(world):
        # Everything that accelerate knows of this process is in singletons.
        AcceleratorState._reset_state(reset_partial_state=False)
        found[f"{prompts}x{micro}"] = train(sys.argv[1], folder / "trainer", prompts, micro, world)
    (folder / f"seen{rank}.json").write_text(json.dumps(found))
