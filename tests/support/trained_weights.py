"""Ten steps at a learning rate of 1e-6 of every kind of training stage, and the weights that its optimizer keeps.

trained_weights.py FOLDER OUTPUT CASE...    runs cases in a folder that `prepare` has filled; for `accelerate launch`
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate.state import AcceleratorState
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from rl_rerank.experiment.compose import compose
from rl_rerank.stages.grpo import run as grpo
from rl_rerank.stages.sft import run as sft
from rl_rerank.stages.synth import run as synth

KINDS = ("completion", "ranking", "tokens", "scores", "choice")
DTYPES = ("float32", "bfloat16")
ARITHMETICS = ("bf16", "fp32")
WAYS = ("full", "lora")
STEPS = 10
EXPERIMENT = """\
# @package _global_
paradigm: pointwise
paradigms: {pointwise: {}}
stages:
  synth: {kind: synth, teacher: labels, mixture: {pointwise: 24}}
  completion: {kind: sft, data: synth, batch_size: 4, micro_batch: 2}
  ranking: {kind: sft, loss: softmax, batch_size: 4, micro_batch: 2}
  tokens: {kind: grpo, prompts_per_step: 4, num_generations: 4, micro_batch: 4, beta: 0.01}
  scores: {kind: grpo, policy: scores, prompts_per_step: 4, micro_batch: 2}
  choice: {kind: grpo, policy: choice, prompts_per_step: 4, micro_batch: 2, beta: 0.01}
"""
REWARDS = {"tokens": "mine.py:Letters", "scores": "ndcg", "choice": "exact_match"}
REWARD = """\
class Letters:
    def __call__(self, example, rollout):
        return sum(c.isalpha() for c in rollout.completion.text) / (1 + len(rollout.completion.text))
"""


class Case(NamedTuple):
    """One run. A reference is the same run with a float32 model that computes in float32."""

    kind: str
    dtype: str
    arithmetic: str
    """bf16, fp32 or reference."""
    way: str
    """full or lora."""

    @property
    def name(self) -> str:
        return "-".join(self)

    @property
    def reference(self) -> "Case":
        return self._replace(arithmetic="reference")


def matrix(kinds=KINDS) -> list[Case]:
    return [
        Case(kind, dtype, arithmetic, way)
        for kind in kinds
        for dtype in DTYPES
        for arithmetic in ARITHMETICS
        for way in WAYS
    ]


def prepare(folder: Path, model_dir: Path) -> None:
    """Write the experiment, its data, the rows of its synth stage, and a model of float32 and of bfloat16 values."""
    for dtype in DTYPES:
        model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=getattr(torch, dtype))
        model.save_pretrained(folder / dtype)
        AutoTokenizer.from_pretrained(model_dir).save_pretrained(folder / dtype)
    (folder / "conf/experiment").mkdir(parents=True)
    (folder / "conf/experiment/weights.yaml").write_text(EXPERIMENT)
    (folder / "mine.py").write_text(REWARD)
    with (folder / "data.jsonl").open("w") as file:
        for i in range(12):
            candidates = [{"docid": f"{i}{c}", "text": f"the text {c} {i}"} for c in "abc"]
            row = {"qid": f"q{i}", "query": f"query {i}", "candidates": candidates, "qrels": {f"{i}{'abc'[i % 3]}": 1}}
            file.write(json.dumps({**row, "split": "train"}) + "\n")
    with contextlib.chdir(folder):
        config = composed(Case("completion", "float32", "fp32", "full"))
        synth.run(config, "synth", config.stages["synth"])
        shutil.move(Path(config.run_dir) / "synth", "synth")


def composed(case: Case, output: str = "."):
    """The case's configuration, with paths relative to the prepared folder; its run is OUTPUT/CASE."""
    is_reference = case.arithmetic == "reference"
    stage = [f"max_steps={STEPS}", "save_steps=5", "learning_rate=1e-6", f"bf16={case.arithmetic == 'bf16'}"]
    adapter = [f"+stages.{case.kind}.lora.r=4"] if case.way == "lora" else []
    return compose(
        "run",
        [
            *(
                "experiment=weights",
                "data=jsonl",
                "data.path=data.jsonl",
                f"run_dir={Path(output) / case.name}",
                "report_to=[]",
            ),
            *(f"model.path=./{case.dtype}", f"model.dtype={'float32' if is_reference else case.dtype}"),
            *("model.max_prompt_tokens=400", f"reward=[{REWARDS.get(case.kind, '')}]", *adapter),
            *(f"stages.{case.kind}.{setting}" for setting in stage),
        ],
    )


def train(folder: Path, case: Case, output: str = ".") -> None:
    """Run the case's stage in this process."""
    with contextlib.chdir(folder):
        # Everything that accelerate and transformers know of this process is in singletons.
        AcceleratorState._reset_state(reset_partial_state=False)
        unset_hf_deepspeed_config()
        config = composed(case, output)
        (Path(config.run_dir) / "synth").mkdir(parents=True, exist_ok=True)
        for file in ("rows.jsonl", "examples.jsonl"):
            shutil.copy(Path("synth") / file, Path(config.run_dir) / "synth")
        stage = config.stages[case.kind]
        (sft if stage.kind == "sft" else grpo).run(config, case.kind, stage)


def saved(folder: Path, case: Case, step: int = STEPS) -> dict[str, Tensor]:
    """The trained weights of a checkpoint, in the type that they have there; DeepSpeed's are its masters."""
    found = folder / case.name / case.kind / "checkpoints" / f"checkpoint-{step}"
    if any(found.glob("global_step*")):
        pieces = get_fp32_state_dict_from_zero_checkpoint(str(found))
        return {name.replace(".default.", "."): weight.detach() for name, weight in pieces.items()}
    return load_file(found / ("adapter_model.safetensors" if case.way == "lora" else "model.safetensors"))


class Change(NamedTuple):
    moved: float
    """Share of the weights that move in the reference which move here too."""
    apart: float
    """Distance of the final weights from the reference's, over the distance that the reference moves."""


def bound(case: Case) -> float:
    """How far the final weights may be apart from the reference's.

    Without bfloat16 nothing differs but the order of sums. With it, rounding counts where a gradient is nearly 0,
    because Adam divides a gradient by its own size. Scores and choices have such gradients here: a random model hardly
    tells documents apart.
    """
    if case.arithmetic == "fp32" and case.way == "full":
        return 1e-3
    return {"scores": 0.8, "choice": 0.4}.get(case.kind, 0.1)


def change(folder: Path, output: str, case: Case, reference: dict[str, Tensor]) -> Change:
    """Compare a case of FOLDER/OUTPUT with its reference."""
    weights = saved(folder / output, case)
    start = load_file(folder / case.dtype / "model.safetensors")
    both = moves = 0
    apart = way = 0.0
    for name, expected in reference.items():
        if case.way == "full" and name not in start:  # a tied head, which DeepSpeed lists beside its embedding
            continue
        if "lora_A" in name:  # random at the start; B is 0 there
            continue
        before = start[name].float() if case.way == "full" else torch.zeros_like(expected)
        does_move = expected != before
        moves += int(does_move.sum())
        both += int((does_move & (weights[name].float() != before)).sum())
        apart += float((weights[name].float() - expected).square().sum())
        way += float((expected - before).square().sum())
    return Change(both / moves, (apart / way) ** 0.5)


def started(command: list[str], folder: Path, output: str, cases: Sequence[Case]) -> None:
    """Run cases by a launcher's command, and leave them in FOLDER/OUTPUT."""
    done = subprocess.run(
        [*command, __file__, str(folder), output, *(case.name for case in cases)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]


if __name__ == "__main__":
    for text in sys.argv[3:]:
        train(Path(sys.argv[1]), Case(*text.split("-")), sys.argv[2])
