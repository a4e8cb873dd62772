"""Peers of the study, trained on the same queries for the same CPU time: sentence-transformers and plain trl.

A peer first takes a few steps to find its pace; the seconds that are left say how many steps its schedule has. They are
written down, so that a training that was killed goes on to the same number of steps, from its last checkpoint. Packages
of training are imported where they are used: the page needs none of them.
"""

from __future__ import annotations

import json
import random
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rl_rerank.config import Config
from rl_rerank.data import prepare
from rl_rerank.engines.local import amx, minilm, pairs
from rl_rerank.io.files import write_json
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.types import RankingExample

LISTS, SIZE = 4, 8
"""Lists of a step and documents of a list, as in the study's SFT."""
GROUPS, GENERATIONS = 4, 8
"""Prompts of a GRPO step and completions of each."""
PACE_STEPS = 4
"""Steps that measure the pace, after one that is not counted."""
STATE = "peer.json"
"""In the run folder: the steps of the training and the CPU seconds that a step took."""
LEARNING_RATE = {"smollm2": 1e-4, "minilm": 1e-4, "grpo": 1e-5}


def train(peer: str, loss: str, config: Config, seconds: float) -> None:
    """Train a peer and leave its model in RUN_DIR/model.

    Args:
        peer: smollm2 or minilm, backbones of a CrossEncoder; or grpo.
        loss: softmax, lambda or bce, of a CrossEncoder.
        config: the experiment that will rank with it, with its data and the SmolLM2 to start from.
        seconds: of the processors, finding the pace included.
    """
    folder = Path(config.run_dir)
    state = folder / STATE
    if not state.is_file():
        before = cpu_seconds()
        step = _pace(peer, loss, config)
        steps = max(1, int((seconds - (cpu_seconds() - before)) / step))
        write_json(state, {"steps": steps, "seconds_a_step": round(step, 3), "seconds": seconds})
    steps = json.loads(state.read_text(encoding="utf-8"))["steps"]
    trainer = _trainer(peer, loss, config, folder / "training_of_peer", steps, save=True)
    saved = any((folder / "training_of_peer").glob("checkpoint-*/trainer_state.json"))
    trainer.train(resume_from_checkpoint=saved or None)
    _save(trainer, peer, folder / "model")


def cpu_seconds() -> float:
    """Seconds of processors that this process has taken."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _pace(peer: str, loss: str, config: Config) -> float:
    """CPU seconds of a step: the mean of a few behind the first."""
    folder = Path(config.run_dir) / "pace_of_peer"
    trainer = _trainer(peer, loss, config, folder, PACE_STEPS + 1, save=False)
    ends: list[float] = []
    trainer.add_callback(_at_step_ends(lambda: ends.append(cpu_seconds())))
    trainer.train()
    return (ends[-1] - ends[0]) / PACE_STEPS


def _at_step_ends(note: Any) -> Any:
    from transformers import TrainerCallback

    class AtStepEnds(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            note()

    return AtStepEnds()


def _trainer(peer: str, loss: str, config: Config, folder: Path, steps: int, *, save: bool) -> Any:
    examples = [e for e in prepare(config.data, Path(config.run_dir) / "data").examples("train") if _teaches(e)]
    shared = {
        "output_dir": str(folder),
        "max_steps": steps,
        "learning_rate": LEARNING_RATE[peer],
        "warmup_steps": 0.1,  # a share of the steps
        "lr_scheduler_type": "linear",
        "bf16": amx.is_used(),
        "use_cpu": True,
        "save_strategy": "steps" if save else "no",
        "save_steps": 25,
        "save_total_limit": 1,
        "seed": config.seed,
        "report_to": [],
        "logging_steps": 10,
        "disable_tqdm": True,
    }
    build = _grpo if peer == "grpo" else _cross_encoder
    return build(peer, loss, config, examples, steps, shared)


def _teaches(example: RankingExample) -> bool:
    return len({example.gain(docid) for docid in example.docids}) > 1


def drawn(examples: Sequence[RankingExample], count: int, seed: int) -> Iterator[tuple[RankingExample, list[str]]]:
    """Yield `count` lists in passes over the queries: a document of the highest grade, and others of lower ones."""
    rng, made = random.Random(seed), 0
    while True:
        for example in rng.sample(examples, len(examples)):
            if made == count:
                return
            best = max(example.gain(docid) for docid in example.docids)
            highest = [docid for docid in example.docids if example.gain(docid) == best]
            lower = [docid for docid in example.docids if example.gain(docid) < best]
            yield example, [rng.choice(highest), *rng.sample(lower, min(SIZE - 1, len(lower)))]
            made += 1


def _cross_encoder(
    peer: str, loss: str, config: Config, examples: Sequence[RankingExample], steps: int, shared: dict[str, Any]
) -> Any:
    from datasets import Dataset
    from sentence_transformers.cross_encoder import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss, LambdaLoss, ListNetLoss

    model: Any = CrossEncoder(
        str(_backbone(peer, config)),
        max_length=2 * (config.model.max_passage_tokens or 128),
        local_files_only=True,
        device="cpu",
        model_kwargs={"dtype": "float32"},
    )
    rows = [_shown(example, docids, config) for example, docids in drawn(examples, steps * LISTS, config.seed)]
    if loss == "bce":
        flat = [(q, text, float(g > 0)) for q, texts, grades in rows for text, g in zip(texts, grades, strict=True)]
        columns = _columns(("query", "document", "label"), flat)
    else:
        columns = _columns(("query", "documents", "labels"), rows)
    losses = {"softmax": ListNetLoss, "lambda": LambdaLoss, "bce": BinaryCrossEntropyLoss}
    batch = LISTS * SIZE if loss == "bce" else LISTS
    return CrossEncoderTrainer(
        model=model,
        args=CrossEncoderTrainingArguments(per_device_train_batch_size=batch, **shared),
        train_dataset=Dataset.from_dict(columns),
        loss=losses[loss](model),
    )


def _backbone(peer: str, config: Config) -> Path:
    """A folder of the backbone with a new head for one number; of a folder with a language model's head,
    sentence-transformers would make another kind of ranker."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed

    from rl_rerank.engines.local import encoders
    from rl_rerank.engines.local.checkpoint import base_model_dir

    folder = Path(config.run_dir) / "backbone"
    if not folder.is_dir():
        base = str(encoders.locate("peer", minilm.NAME) if peer == "minilm" else base_model_dir(config.model))
        tokenizer = AutoTokenizer.from_pretrained(base)
        set_seed(config.seed)
        model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype="float32")
        model.config.pad_token_id = tokenizer.pad_token_id  # the head reads the last token before padding
        beside = folder.with_name("backbone.part")
        model.save_pretrained(str(beside))
        tokenizer.save_pretrained(str(beside))
        beside.rename(folder)
    return folder


def _columns(names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> dict[str, list[Any]]:
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


def _shown(example: RankingExample, docids: Sequence[str], config: Config) -> tuple[str, list[str], list[float]]:
    """A query with its documents as the engine will show them, cut to a length in words that no budget exceeds."""
    asked = [pairs.split(Pointwise().prompt(example, [docid]), "cross-encoder") for docid in docids]
    words = config.model.max_passage_tokens or 128
    texts = [" ".join(text.split()[:words]) for _, text in asked]
    return asked[0][0], texts, [float(example.gain(docid)) for docid in docids]


def right_answer(completions: Sequence[Any], relevant: Sequence[bool], **_: Any) -> list[float]:
    """The hand-written reward: 1 for the right one of yes and no, 0 for everything else."""
    said = [completion[0]["content"].strip().lower() for completion in completions]
    return [float(text == ("yes" if yes else "no")) for text, yes in zip(said, relevant, strict=True)]


def _grpo(
    peer: str, loss: str, config: Config, examples: Sequence[RankingExample], steps: int, shared: dict[str, Any]
) -> Any:
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    from rl_rerank.engines.local.checkpoint import base_model_dir

    folder = base_model_dir(config.model)
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    rows: list[dict[str, Any]] = []
    for number, (example, docids) in enumerate(drawn(examples, steps * GROUPS, config.seed)):
        docid = docids[number % 2 and -1]  # the relevant document and another one in turn
        prompt = Pointwise().prompt(example, [docid])
        cut = config.model.max_passage_tokens or 128
        rows.append(
            {
                "prompt": [
                    {"role": m.role, "content": "".join(_cut(s.text, cut, s.docid, tokenizer) for s in m.segments)}
                    for m in prompt.messages
                ],
                "relevant": example.qrels.get(docid, 0) >= 1,
            }
        )
    return GRPOTrainer(
        model=str(folder),
        reward_funcs=right_answer,  # pyright: ignore[reportArgumentType] (a list of floats is one of floats or None)
        args=GRPOConfig(
            per_device_train_batch_size=GROUPS * GENERATIONS,
            num_generations=GENERATIONS,
            max_completion_length=4,
            model_init_kwargs={"dtype": "float32"},
            **shared,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )


def _cut(text: str, tokens: int, docid: str | None, tokenizer: Any) -> str:
    """The first tokens of a document; other texts as they are."""
    if docid is None:
        return text
    ends = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"][:tokens]
    return text[: ends[-1][1]] if ends else ""


def _save(trainer: Any, peer: str, folder: Path) -> None:
    """Save the model beside its place and rename it, so that a folder that is there is complete."""
    beside = folder.with_name(f"{folder.name}.part")
    trainer.model.save_pretrained(str(beside))
    if peer == "grpo":
        trainer.processing_class.save_pretrained(str(beside))
    beside.rename(folder)
