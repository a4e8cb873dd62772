"""Rank the held-out queries with a model, or as the first stage did, and write a run file."""

import dataclasses
import itertools
import logging
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rl_rerank.config import Config
from rl_rerank.data import prepare
from rl_rerank.engines.base import Engine
from rl_rerank.engines.build import build_stage_engine
from rl_rerank.evaluation import answers, protocol
from rl_rerank.evaluation.cost import Cost, cost, read_cost
from rl_rerank.io import trec
from rl_rerank.io.files import write_json, write_jsonl
from rl_rerank.paradigms.base import Paradigm
from rl_rerank.paradigms.build import build_paradigm
from rl_rerank.ranking import fusion
from rl_rerank.ranking.answer_share import LOW, Share, shares, warning
from rl_rerank.ranking.driver import answer, check_finite
from rl_rerank.ranking.methods import rank
from rl_rerank.stages.rerank import external, feedback
from rl_rerank.stages.rerank.cascade import completed, cost_behind, earlier, shortened
from rl_rerank.stages.rerank.fused import chosen_weight, fused, fused_cost
from rl_rerank.stages.rerank.spec import FUSION, WARNING, RerankStage
from rl_rerank.types import Prompt, Ranking, RankingExample, Rollout

logger = logging.getLogger(__name__)

NUM_SAMPLES = 3


@dataclass(frozen=True)
class _Done:
    """What a stage has to write."""

    rankings: list[Ranking]
    taken: Cost
    rollouts: Sequence[Rollout] = ()
    shares: Sequence[Share] = ()
    formats: Mapping[str, Any] = field(default_factory=dict)
    noted: dict[str, Any] = field(default_factory=dict)
    """Further values of the summary."""


def run(config: Config, name: str, stage: RerankStage) -> None:
    """Write the run with its protocol, what was asked and answered, `format.json` and `summary.json`."""
    folder = Path(config.run_dir) / name
    store = prepare(config.data, Path(config.run_dir) / "data")
    before = earlier(config, name, stage)
    examples = shortened(store.examples(stage.split), before, stage.depth)
    if (weight := chosen_weight(config, name, stage, store)) is not None:
        assert stage.fusion is not None
        stage = dataclasses.replace(stage, fusion=dataclasses.replace(stage.fusion, weight=weight.weight))
        logger.info("%s: weight %.2f, chosen on %d dev queries", name, weight.weight, weight.num_queries)
    label = stage.label or name
    paradigm = build_paradigm(config, stage.paradigm or config.paradigm) if stage.asks_model else None
    if paradigm is None:
        started = time.monotonic()
        rankings = _without_model(config, name, stage, examples)
        done = _Done(rankings, _cost_before(config, stage) + Cost(seconds=round(time.monotonic() - started, 3)))
    else:
        done = _asked(config, name, stage, paradigm, examples, before)
    rankings, rollouts, taken = done.rankings, done.rollouts, done.taken
    summary = _summary(label, stage, rankings, taken) | _answers(rollouts, done.shares) | done.noted
    if weight is not None:
        summary[FUSION] = dataclasses.asdict(weight)
    if unusable := _warning(name, summary):
        summary[WARNING] = unusable
        logger.warning("%s", unusable)
    task = protocol.protocol(config, stage, store, paradigm)
    is_elsewhere = stage.run is not None or stage.feedback is not None
    protocol.write(folder, external.protocol(task, rankings, examples) if is_elsewhere else task)
    trec.write_run(folder / "run.trec", rankings, tag="-".join(label.split()))
    write_jsonl(folder / answers.RANKINGS, map(_ranking_row, rankings))
    answers.write(folder, rollouts)
    write_json(folder / "format.json", done.formats)
    write_json(folder / "summary.json", summary)
    if stage.asks_model and stage.executor == "ray":
        _on_ray().clean(config, name)
    logger.info(
        "%s: ranked %d documents of %d queries with %d prompts in %.0f s; %d answers malformed, %d unusable",
        name,
        summary["num_documents"],
        summary["num_queries"],
        summary["num_prompts"],
        taken.seconds,
        summary["num_malformed"],
        summary["num_fallbacks"],
    )


def _asked(
    config: Config,
    name: str,
    stage: RerankStage,
    paradigm: Paradigm,
    examples: Sequence[RankingExample],
    before: Mapping[str, Ranking],
) -> _Done:
    """Ask a model. The time in which an engine is built does not count.

    Args:
        before: qid -> the ranking that the stage continues; empty: there are none.
    """
    started = time.monotonic()
    workers = _on_ray() if stage.executor == "ray" else None
    journal = workers.answered(config, name, stage, len(examples)) if workers else None
    asking = time.monotonic() - started  # by workers
    engine = build_stage_engine(config, stage.model, stage.engine, journal)
    try:
        started = time.monotonic() - asking
        rankings, rollouts = rank(examples, paradigm, engine, stage, progress=stage.label or name)
        check_finite(rollouts)
        taken = cost(rankings, rollouts, engine, time.monotonic() - started)
        if before:
            rankings, taken = completed(rankings, before), cost_behind(config, stage, taken)
        found = shares(rollouts, paradigm, engine)
        for share in found:
            logger.info("%s: %.1f%% of the probability lies on the scored answers", name, 100 * share.mean)
            if share.mean < LOW:
                logger.warning("%s: %s", name, warning(share, engine))
        noted = _cut(engine, name)
        formats = _formats(config, stage, examples, engine)
        noted |= {"usage": dict(engine.usage)} if engine.usage else {}
    finally:
        engine.close()
    return _Done(rankings, taken, rollouts, found, formats, noted)


def _on_ray() -> Any:
    """The module that needs an extra of its own."""
    from rl_rerank.stages.rerank import on_ray

    return on_ray


def _without_model(config: Config, name: str, stage: RerankStage, examples: Sequence[RankingExample]) -> list[Ranking]:
    if stage.run is not None:
        is_spaced = config.data.protocol == "bright"
        return external.rankings(f"stages.{name}.run", Path(stage.run), examples, spaced=is_spaced)
    if stage.feedback is not None:
        found, rows = feedback.searched(config, name, stage.feedback, examples)
        write_jsonl(Path(config.run_dir) / name / feedback.FILE, rows)
        return found
    return fused(config, name, stage) if stage.fuse else [fusion.first_stage(example) for example in examples]


def _cost_before(config: Config, stage: RerankStage) -> Cost:
    """What the runs took that this one is made of."""
    if stage.feedback is not None:
        return read_cost(Path(config.run_dir) / stage.feedback.of / "summary.json")
    return fused_cost(config, stage)


def _cut(engine: Engine, name: str) -> dict[str, Any]:
    """The share of documents in prompts that a token budget has cut, where our renderer writes the prompts."""
    renderer = getattr(getattr(engine, "engine", engine), "renderer", None)  # `engine.engine`: behind a journal
    if renderer is None or not renderer.num_shown:
        return {}
    share = renderer.num_cut / renderer.num_shown
    logger.info("%s: %.0f%% of the documents were cut to the token budget", name, 100 * share)
    return {"cut_documents": share}


def _warning(name: str, summary: Mapping[str, Any]) -> str | None:
    """Say that the model ranked nothing, if so."""
    asked = summary["num_prompts"]
    if not asked or summary["num_fallbacks"] < asked:
        return None
    return (
        f"stages.{name}: none of the {asked} answers can be used, so every ranking is the order that was shown; "
        f"read them in {answers.ROLLOUTS}, and check the model, the paradigm and its max_completion_tokens"
    )


def _ranking_row(ranking: Ranking) -> dict[str, Any]:
    """What a run file cannot hold: the scores before they were made to decrease strictly."""
    raw = None if ranking.raw_scores is None else dict(ranking.raw_scores)
    return {"qid": ranking.qid, "docids": ranking.docids, "scores": dict(ranking.scores), "raw_scores": raw}


def _formats(
    config: Config, stage: RerankStage, examples: Sequence[RankingExample], engine: Engine
) -> dict[str, dict[str, Any]]:
    """How many of a paradigm's answers are in the asked form, read strictly."""
    found: dict[str, dict[str, Any]] = {}
    for name, count in stage.format_prompts.items():
        paradigm = build_paradigm(config, name)
        asked = _format_prompts(paradigm, examples, count, stage.seed)
        if len(asked) < count:
            logger.warning("only %d of %d %s prompts can be made from split %r", len(asked), count, name, stage.split)
        rollouts = answer(asked, paradigm, engine, strict=True)
        statuses = Counter(rollout.judgment.status.value for rollout in rollouts)
        well_formed = sum(rollout.judgment.is_ok for rollout in rollouts)
        found[name] = {
            "prompts": len(rollouts),
            "well_formed": well_formed,
            "statuses": dict(statuses),
            "samples": [rollout.completion.text for rollout in rollouts[:NUM_SAMPLES]],
        }
        logger.info("%s: %d of %d answers are well formed", name, well_formed, len(rollouts))
    return found


def _format_prompts(paradigm: Paradigm, examples: Sequence[RankingExample], count: int, seed: int) -> list[Prompt]:
    """The first prompt of every example that qualifies, then the second ones, and so on, up to `count`."""

    def by_turn() -> Iterator[Prompt]:
        for turn in itertools.count():
            is_last = True
            for example in examples:
                prompts = paradigm.prompts(example, random.Random(f"{seed}:{example.qid}"))
                yield from prompts[turn : turn + 1]
                is_last = is_last and len(prompts) <= turn + 1
            if is_last:
                return

    return list(itertools.islice(by_turn(), count))


def _source(stage: RerankStage) -> str:
    return stage.model if stage.feedback is None else f"feedback of {stage.feedback.of}"


def _answers(rollouts: Sequence[Rollout], found: Sequence[Share]) -> dict[str, Any]:
    """What is wrong with answers, by kind, and the mean share of the probability on scored ones, where there is any."""
    issues = Counter(kind for r in rollouts for kind in {issue.kind for issue in r.judgment.issues})
    summary: dict[str, Any] = {"issues": dict(sorted(issues.items()))} if issues else {}
    if count := sum(len(share.rollouts) for share in found):
        summary["answer_share"] = sum(share.mean * len(share.rollouts) for share in found) / count
    return summary


def _summary(label: str, stage: RerankStage, rankings: Sequence[Ranking], taken: Cost) -> dict[str, Any]:
    return {
        "label": label,
        "model": stage.run or " + ".join(stage.fuse) or _source(stage),
        "split": stage.split,
        "num_queries": len(rankings),
        "num_prompts": sum(r.num_prompts for r in rankings),
        "num_malformed": sum(r.num_malformed for r in rankings),
        "num_fallbacks": sum(r.num_fallbacks for r in rankings),
        "num_retries": sum(r.num_retries for r in rankings),
        "num_ties": sum(r.num_ties for r in rankings),
        "num_documents": sum(len(r.docids) for r in rankings),
        "cost": dataclasses.asdict(taken),
    }
