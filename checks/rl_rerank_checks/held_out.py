"""What models earn on the same held-out queries, and the paired test of their difference."""

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rl_rerank.evaluation.enough import too_few
from rl_rerank.evaluation.measures import evaluate, lower_is_better, parse
from rl_rerank.evaluation.statistics import paired_test
from rl_rerank.io import trec
from rl_rerank.paradigms.base import Paradigm, as_written
from rl_rerank.reward.base import evaluate as score
from rl_rerank.reward.base import total
from rl_rerank.reward.probe_completions import completion, rollout
from rl_rerank.stages.check.finished_run import Finding, Run
from rl_rerank.types import Prompt, Rollout

REWARD = "reward"
"""In place of a measure: the experiment's reward of the answers, on the prompts that both models were asked."""
LEVEL = 0.05

Values = Mapping[tuple[str, tuple[str, ...]], float]
"""(qid, docids in the order shown) -> the reward of the first answer."""


def refuse(run: Run, stages: Sequence[str], measure: str) -> None:
    """Refuse rerank stages that cannot be compared.

    Raises:
        LookupError: for a stage that does not exist.
        ValueError: for one that asks no model, other queries or, for the reward, in another paradigm; for a measure
            that does not exist, or a reward where none is configured.
    """
    one, other = (run.ranked_by_model(stage) for stage in stages)
    if one.split != other.split:
        raise ValueError(f"{stages[0]!r} ranks split {one.split!r}, {stages[1]!r} {other.split!r}; compare one split")
    if measure != REWARD:
        parse(measure)
        return
    if not run.plugins.terms:
        raise ValueError("no reward is configured, so none can be compared; give a measure such as nDCG@10")
    asked = [stage.paradigm or run.config.paradigm for stage in (one, other)]
    if asked[0] != asked[1]:
        raise ValueError(
            f"{stages[0]!r} asks with {asked[0]}, {stages[1]!r} with {asked[1]}; rewards are compared on the same "
            "prompts, so give measure=nDCG@10"
        )


def better(run: Run, what: str, stages: Sequence[str], measure: str) -> Finding:
    """Test whether the second of two rerank stages is better than the first, query by query."""
    before, after = _rewards(run, stages) if measure == REWARD else (measured(run, stage, measure) for stage in stages)
    qids = [qid for qid in before if qid in after]
    if reason := too_few(len(qids)):
        return Finding(what, False, reason, is_quality=True)
    first, last = [before[qid] for qid in qids], [after[qid] for qid in qids]
    tested = paired_test(last, first, run.config.seed)
    is_gain = tested.difference < 0 if measure != REWARD and lower_is_better(measure) else tested.difference > 0
    found = f"{statistics.fmean(first):.3f} and {statistics.fmean(last):.3f} on {len(qids)} queries"
    return Finding(what, is_gain and tested.p_value < LEVEL, f"{found}, p = {tested.p_value:.3g}", is_quality=True)


def measured(run: Run, stage: str, measure: str) -> dict[str, float]:
    """qid -> a rerank stage's value of a measure."""
    ranked = trec.read_run(run.file(stage, "run.trec"))
    result = evaluate(ranked, run.store.qrels(run.rerank(stage).split), [measure])
    return {qid: values[measure] for qid, values in result.per_query.items()}


def _rewards(run: Run, stages: Sequence[str]) -> list[dict[str, float]]:
    """qid -> the mean reward over the prompts that were asked in both stages, for either stage."""
    first, last = (_rewards_of_prompts(run, stage) for stage in stages)
    shared = sorted(first.keys() & last.keys())
    by_query = [(qid, list(keys)) for qid, keys in itertools.groupby(shared, key=lambda key: key[0])]
    return [{qid: statistics.fmean(values[key] for key in keys) for qid, keys in by_query} for values in (first, last)]


def _rewards_of_prompts(run: Run, stage: str) -> Values:
    paradigm, terms, examples = as_written(run.paradigm(stage)), run.plugins.terms, run.examples(stage)
    found: dict[tuple[str, tuple[str, ...]], float] = {}
    for qid, rows in run.asked(stage).items():
        seen = [_rollout(stage, paradigm, row) for row in rows]
        values = {term.name: score(term, examples[qid], seen) for term in terms}
        for place, row in enumerate(rows):
            earned = total(terms, {name: breakdowns[place].value for name, breakdowns in values.items()})
            found.setdefault((qid, tuple(row["docids"])), earned)
    return found


def _rollout(stage: str, paradigm: Paradigm, row: Mapping[str, Any]) -> Rollout:
    """The answer as training would have seen it: parsed strictly, with a plausible number of tokens."""
    if row["continuations"] is not None:
        raise ValueError(f"the answers of {stage!r} were scored, not written, so no reward scores them; give a measure")
    is_cut = any(issue["kind"] == "truncated" for issue in row["issues"])
    prompt = Prompt(row["qid"], tuple(row["docids"]), ())
    return rollout(paradigm, prompt, completion(row["text"], "length" if is_cut else "stop"))
