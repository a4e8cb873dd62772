"""GRPO with a reward of whole queries under every admitted layout of a batch, on one, two and three processes.

Writes, for each process and layout, which documents and how many completions the reward saw of each query. The
processes are forked from this one, so that everything is imported once.
"""

import json
import multiprocessing
import os
import socket
import sys
from pathlib import Path

import torch
from accelerate.state import AcceleratorState
from datasets import Dataset
from transformers import AutoModelForCausalLM
from trl import GRPOConfig

sys.path[:0] = [str(Path(__file__).parents[1])]

from rl_rerank.paradigms.pointwise_graded import PointwiseGraded  # noqa: E402
from rl_rerank.prompts.rendering import Renderer  # noqa: E402
from rl_rerank.reward.base import RewardError, Term  # noqa: E402
from rl_rerank.stages.grpo.spec import GRPOStage  # noqa: E402
from rl_rerank.training.grpo.trainer import RankingGRPOTrainer  # noqa: E402
from rl_rerank.training.loop.batches import layout  # noqa: E402
from rl_rerank.training.loop.task import Task  # noqa: E402
from rl_rerank.training.loop.training_prompts import Questions  # noqa: E402
from rl_rerank.types import Candidate, RankingExample  # noqa: E402
from support import small_tokenizers  # noqa: E402
from support.grpo_trainer import ARGUMENTS  # noqa: E402

DOCUMENTS, GENERATIONS, STEPS, WORLDS = 6, 2, 2, (1, 2, 3)
PARADIGM = PointwiseGraded(documents=DOCUMENTS)


class Seen:
    """Notes what it is shown; pays for the place in the query, so that a mix-up shows in the advantages."""

    def __init__(self) -> None:
        self.calls = []

    def score_all(self, example, rollouts):
        self.calls.append([example.qid, [rollout.prompt.docids[0] for rollout in rollouts]])
        return [float(place) for place in range(len(rollouts))]


class Fails:
    """On the last process, after so many calls."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def __call__(self, example, rollout):
        self.left -= 1
        if self.left < 0 and os.environ.get("RANK", "0") == str(int(os.environ.get("WORLD_SIZE", "1")) - 1):
            raise KeyError("no such thing")
        return 0.0


def layouts(world: int) -> list[tuple[int, int]]:
    """(prompts_per_step, micro_batch) of every step of one or two queries that the configuration admits."""
    found = []
    for queries in (1, 2):
        for micro in range(GENERATIONS, 2 * DOCUMENTS * GENERATIONS + 1, GENERATIONS):
            stage = GRPOStage(
                kind="grpo", prompts_per_step=queries * DOCUMENTS, num_generations=GENERATIONS, micro_batch=micro
            )
            try:
                step = layout("grpo", stage.step(), stage.micro_batch, world)
            except ValueError:
                continue
            if (pair := (stage.prompts_per_step, step.micro_batch)) not in found:
                found.append(pair)
    return found


def examples() -> list[RankingExample]:
    return [
        RankingExample(f"q{q}", f"query {q}", tuple(Candidate(f"q{q}d{d}", "text") for d in range(7)), {f"q{q}d0": 1})
        for q in range(5)
    ]


def train(model_dir: str, output: Path, prompts: int, micro: int, world: int, terms: list[Term]) -> list:
    """Rows of the last completions, and what was logged of the rewards."""
    # Everything that accelerate knows of this process is in singletons.
    AcceleratorState._reset_state(reset_partial_state=False)
    tokenizer = small_tokenizers.chatml()
    stage = GRPOStage(kind="grpo", prompts_per_step=prompts, num_generations=GENERATIONS, micro_batch=micro)
    per_query = stage.whole_queries("grpo", terms, PARADIGM)
    renderer = Renderer(tokenizer, max_prompt_tokens=200)
    asked = Questions(examples(), PARADIGM, renderer, count=STEPS * prompts, seed=1, per_query=per_query)
    steps = prompts * GENERATIONS // (micro * world)
    args = GRPOConfig(
        output_dir=str(output),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=steps,
        steps_per_generation=steps,
        num_generations=GENERATIONS,
        max_completion_length=4,
        max_steps=STEPS,
        **ARGUMENTS,
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
    return [rows, logged]


def work(rank: int, world: int, port: int, model_dir: str, folder: Path) -> None:
    if world > 1:
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in names.items()}, MASTER_ADDR="127.0.0.1")
    found = {}
    for prompts, micro in layouts(world):
        seen = Seen()
        rows = train(model_dir, folder / f"trainer{world}", prompts, micro, world, [Term("seen", seen)])
        found[f"{prompts}x{micro}"] = [seen.calls, *rows]
    fails = Fails(DOCUMENTS * GENERATIONS // world)  # in the second step
    try:
        train(model_dir, folder / f"fails{world}", DOCUMENTS, GENERATIONS, world, [Term("fails", fails)])
    except RewardError as e:
        found["failure"] = str(e)
    (folder / f"seen{rank}of{world}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    for world in WORLDS:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        started = [
            context.Process(target=work, args=(rank, world, port, sys.argv[1], Path(sys.argv[2])))
            for rank in range(world)
        ]
        for process in started:
            process.start()
        for process in started:
            process.join()
        if any(process.exitcode for process in started):
            sys.exit(f"of {world} processes: exit status {[process.exitcode for process in started]}")
