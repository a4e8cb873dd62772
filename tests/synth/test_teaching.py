"""Teachers: what is kept of what they say, and how noisy ones are made better."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import replace

import pytest
from support.synth_runs import apply, example, stage

from rl_rerank.config import Config, PluginConfig
from rl_rerank.engines.scripted import Scripted
from rl_rerank.metrics import by_place, kendall_tau, ndcg
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.ranking.aggregate import consensus
from rl_rerank.types import Candidate, Completion, Judgment, Prompt, RankingExample, Rollout, Status

GRADES = {"a": 0, "b": 2, "c": 1}
SETTINGS = Config(
    paradigms={
        "listwise": PluginConfig(params={"window": 10, "stride": 5}),
        "settled": PluginConfig(name="listwise", params={"window": 10, "stride": 5, "settle": True}),
        "whole": PluginConfig(name="listwise", params={"window": None}),
        "reasoned": PluginConfig(name="listwise", params={"reasoning": True}),
        "weighted": PluginConfig(name="pointwise_graded", params={"reasoning": True, "rule": "weighted"}),
    }
)


def lists(seeds: int, documents: int = 30) -> list[RankingExample]:
    """In random order; a document's grade is its place in the true order, from below."""
    made = []
    for seed in range(seeds):
        docids = [f"d{n}" for n in range(documents)]
        grades = {docid: documents - 1 - n for n, docid in enumerate(docids)}
        random.Random(seed).shuffle(docids)
        made.append(RankingExample(f"q{seed}", "query", tuple(Candidate(d, "text") for d in docids), grades))
    return made


def labelled(noise: float, paradigm: str, seeds: int = 12, **params) -> list[RankingExample]:
    made = stage(noise=noise)
    return apply(
        lists(seeds), "rank", called=paradigm, settings=SETTINGS, synth_stage=made, paradigm=paradigm, **params
    )[0]


def tau(examples: Sequence[RankingExample]) -> float:
    return statistics.fmean(kendall_tau(by_place(e.order or ()), e.qrels) for e in examples)


def ndcg_10(examples: Sequence[RankingExample]) -> float:
    """The ten best documents are relevant."""
    return statistics.fmean(ndcg(e.order or (), {d: int(g >= 20) for d, g in e.qrels.items()}, k=10) for e in examples)


def test_the_labels_order_becomes_gold_with_the_answers_and_where_they_are_from():
    [made], counts = apply([example("q", GRADES)], "rank", called="teach", settings=SETTINGS)
    assert made.order == ("b", "c", "a") and made.scores is None
    assert {c.docid: c.features for c in made.candidates} == {
        "a": {"teach_rank": 3.0},
        "b": {"teach_rank": 1.0},
        "c": {"teach_rank": 2.0},
    }
    [output] = made.teachers
    assert (output.teacher, output.paradigm) == ("labels", "listwise")
    judgment = Listwise().parse(Prompt("q", output.docids, ()), Completion(output.text), strict=True)
    assert judgment.is_ok and max(judgment.scores, key=lambda docid: judgment.scores[docid]) == "b"
    assert made.provenance["teach"] == "listwise by labels"
    assert counts == {"prompts": 1, "malformed": 0, "fallbacks": 0}
    [scored], _ = apply([example("q", GRADES)], "rank", called="teach", paradigm="pointwise_graded")
    # Grade 2 is the highest: 10 points; grade 1 is half of it.
    assert scored.scores == {"a": 0.0, "b": 10.0, "c": 5.0} and len(scored.teachers) == 3


@pytest.mark.parametrize(("max_fallbacks", "kept"), [(None, ["half"]), (1.0, ["half", "none"]), (0.0, [])])
def test_an_order_that_is_hardly_the_teachers_is_dropped_and_counted(max_fallbacks, kept):
    def answer(prompt: Prompt) -> str:
        return "10" if prompt.qid == "half" and prompt.docids[0] in "ab" else "I cannot say."

    params = {} if max_fallbacks is None else {"max_fallbacks": max_fallbacks}
    grades = {"a": 0, "b": 1, "c": 0, "d": 0}
    given = [example("half", grades), example("none", grades)]
    asked = {"paradigm": "pointwise_graded", **params}
    made, counts = apply(given, "rank", engine=Scripted(answer), synth_stage=stage(teacher="model"), **asked)
    assert [one.qid for one in made] == kept
    assert counts["unusable"] == 2 - len(kept) and counts["fallbacks"] == 6


def test_a_whole_lists_labels_are_exact_without_noise_only_when_every_rank_is_settled():
    assert tau(labelled(0.0, "settled", 3)) == 1.0
    assert tau(labelled(0.0, "listwise", 3)) < 0.9
    # 30 documents, windows of 10 by 5: passes over 30, 25, ... 10 take 5 + 4 + 3 + 2 + 1 prompts.
    assert apply(lists(1), "rank", settings=SETTINGS, paradigm="settled")[1]["prompts"] == 15


def test_noisy_labels_get_better_by_settling_by_consensus_and_by_fusion():
    noisy = labelled(6.0, "listwise")
    assert tau(labelled(6.0, "settled")) > tau(noisy) + 0.05
    assert tau(labelled(6.0, "listwise", samples=5, temperature=1.0)) > tau(noisy) + 0.02
    pointwise = labelled(6.0, "pointwise_graded")
    assert tau(labelled(6.0, "pointwise_graded", samples=5, temperature=1.0)) > tau(pointwise) + 0.05
    both, _ = apply(
        pointwise, "rank", called="whole", settings=SETTINGS, synth_stage=stage(noise=6.0), paradigm="whole"
    )
    fused, _ = apply(both, "rank_fusion", first="pointwise_graded", second="whole")
    assert tau(fused) > max(tau(pointwise), tau(both)) + 0.02
    assert ndcg_10(fused) > max(ndcg_10(pointwise), ndcg_10(both))


def test_self_consistency_keeps_the_labels_of_a_teacher_that_is_better_at_some_lists():
    noisy = [*labelled(2.0, "whole", 12), *(replace(e, qid=f"{e.qid}-bad") for e in labelled(20.0, "whole", 12))]
    judged = [replace(e, qrels={d: int(g >= 20) for d, g in e.qrels.items()}) for e in noisy]
    middle = statistics.median(ndcg(e.order or (), e.qrels, k=10) for e in judged)
    kept = {e.qid for e in apply(judged, "consistency", min_ndcg=middle)[0]}
    assert len(kept) == 12
    assert tau([e for e in noisy if e.qid in kept]) > tau(noisy) + 0.2


def test_ranks_are_fused_as_grouprank_does():
    features = {"a": (1, 2), "b": (2, 1), "c": (3, 4), "d": (4, 3)}
    shown = tuple(
        Candidate(d, "text", features={"p_rank": float(p), "l_rank": float(q)}) for d, (p, q) in features.items()
    )
    [made], _ = apply([RankingExample("q", "query", shown)], "rank_fusion", first="p", second="l")
    # -.5 ln 1 - .5 ln 2 = -.3466 for a and b, -.5 ln 3 - .5 ln 4 = -1.2425 for c and d: 10 and 0 points.
    assert made.order == ("a", "b", "c", "d")
    assert made.scores == pytest.approx({"a": 10.0, "b": 10.0, "c": 0.0, "d": 0.0})
    [uneven], _ = apply([RankingExample("q", "query", shown)], "rank_fusion", first="p", second="l", beta=1.0)
    # -ln 1, ..., -ln 4 mapped to 10..0
    assert uneven.scores == pytest.approx({d: 10 * (1 - math.log(p) / math.log(4)) for d, (p, _) in features.items()})
    with pytest.raises(LookupError, match="the step 'x' has not ranked"):
        apply([RankingExample("q", "query", shown)], "rank_fusion", first="x", second="l")


def test_a_consensus_is_the_mean_and_keeps_the_answer_nearest_to_it():
    def sample(text: str, score: float | None) -> Rollout:
        scores = {} if score is None else {"d": score}
        return Rollout(Prompt("q", ("d",), ()), Completion(text), Judgment(Status.ok, scores))

    # The mean of 2, 9 and 7 is 6, and 7 is nearest to it; what cannot be read does not count.
    found = consensus([sample("two", 2.0), sample("?", None), sample("nine", 9.0), sample("seven", 7.0)])
    assert (found.completion.text, found.judgment.scores) == ("seven", {"d": 6.0})
    assert consensus([sample("?", None), sample("!", None)]).completion.text == "?"
    assert consensus([sample("?", None), sample("one", 1.0)]).completion.text == "one"


def test_scores_become_grades_where_nobody_has_judged():
    given = example("q", {}, scores={"a": 2.0, "b": 5.0, "c": 9.0})
    given = replace(given, candidates=tuple(Candidate(d, "text") for d in "abc"))
    [made], _ = apply([given], "grade", thresholds=[5.0, 8.0])
    assert made.qrels == {"a": 0, "b": 1, "c": 2}
    assert apply([given], "grade", thresholds=[1.0])[1]["one_grade"] == 1


def test_the_reasoning_to_a_known_answer_is_asked_for_and_put_before_it():
    seen = []

    def answer(prompt: Prompt) -> str:
        seen.append(prompt.messages[-1].segments[-1].text)
        return {"q1": "b says it best.", "q2": "so </think><answer>[1]</answer>"}[prompt.qid]

    given = [example(qid, GRADES) for qid in ("q1", "q2")]
    [made], counts = apply(given, "reasons", engine=Scripted(answer), settings=SETTINGS, paradigm="reasoned")
    [output] = made.teachers
    places = {docid: n for n, docid in enumerate(output.docids, start=1)}
    gold = f"[{places['b']}] > [{places['c']}] > [{places['a']}]"
    assert output.text == f"<think>b says it best.</think><answer>{gold}</answer>"
    assert all("The right answer is <answer>[" in told for told in seen)
    assert counts["malformed"] == 1
    with pytest.raises(ValueError, match=r"paradigms\.listwise\.params\.reasoning must be true"):
        apply(given, "reasons", engine=Scripted(answer))


def test_a_conversation_shows_one_document_a_turn():
    prompt = Listwise(wording="rankgpt").prompt(example("q", GRADES), ["b", "a"])
    assert [message.role for message in prompt.messages] == ["system", *["user", "assistant"] * 3, "user"]
    said = ["".join(segment.text for segment in message.segments) for message in prompt.messages]
    assert said[3:5] == ["[1] text of b", "Received passage [1]."]
    assert said[-1].endswith("most relevant first, like [2] > [1].")
    [theirs] = [s for s in prompt.messages[3].segments if s.docid]
    assert (theirs.docid, theirs.field) == ("b", "text")


def test_a_teachers_score_is_the_number_as_written():
    [made], counts = apply([example("q", GRADES)], "rank", called="t", settings=SETTINGS, paradigm="weighted")
    assert made.scores == {"a": 0.0, "b": 10.0, "c": 5.0}
    assert (counts["malformed"], len(made.teachers)) == (0, 3)
    assert apply([made], "consistency", settings=SETTINGS, of="answers")[1]["inconsistent"] == 0


def test_several_samples_need_a_temperature():
    for name in ("rank", "answers"):
        with pytest.raises(ValueError, match="need a temperature above 0"):
            apply([], name, samples=3)
