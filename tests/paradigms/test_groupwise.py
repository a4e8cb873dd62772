import random
from dataclasses import replace

import pytest

from rl_rerank.engines.scripted import Scripted
from rl_rerank.paradigms.groupwise import Groupwise
from rl_rerank.ranking.driver import rerank
from rl_rerank.types import Candidate, Completion, Prompt, RankingExample

PROMPT = Prompt("q", ("a", "b"), ())


def example(n=5):
    return RankingExample("q", "query", tuple(Candidate(f"d{i}", f"text {i}") for i in range(n)), {"d3": 2, "d1": 1})


@pytest.mark.parametrize(
    ("text", "strict", "lenient", "scores"),
    [
        ('{"[1]": 3, "[2]": 7}', "ok", "ok", {"a": 3, "b": 7}),
        ('{"[2]": 7, "[1]": 3}', "ok", "ok", {"a": 3, "b": 7}),
        ('\n{"[1]":0,"[2]":10}\n', "ok", "ok", {"a": 0, "b": 10}),
        ('{"[1]": 3, "[2]": 11}', "answer", "repaired", {"a": 3, "b": 10}),
        ('{"[1]": 3, "[2]": 7.5}', "answer", "repaired", {"a": 3, "b": 7.5}),
        ('{"[1]": "3", "[2]": "7"}', "answer", "repaired", {"a": 3, "b": 7}),
        ('{"[1]": true, "[2]": 7}', "answer", "repaired", {"a": 6, "b": 7}),
        ('{"[1]": 3, "[1]": 4, "[2]": 7}', "ids", "repaired", {"a": 4, "b": 7}),
        ('{"[1]": 3}', "ids", "repaired", {"a": 3, "b": 2}),
        ('{"[1]": 3, "[02]": 7}', "answer", "repaired", {"a": 3, "b": 7}),
        ('{"[1]": 3, "[\u0662]": 7}', "answer", "repaired", {"a": 3, "b": 2}),
        ('{"[1]": 3, "[2]": NaN}', "answer", "repaired", {"a": 3, "b": 2}),
        ('{"[0]": 3, "[1]": 3, "[2]": 7}', "ids", "repaired", {"a": 3, "b": 7}),
        ('{"[1]": 3, "[2]": 7, "[3]": 1}', "ids", "repaired", {"a": 3, "b": 7}),
        ('Scores: {"[1]": 3, "[2]": 7}', "answer", "repaired", {"a": 3, "b": 7}),
        ('{"[1]": 3, "[2]": 7', "answer", "repaired", {"a": 3, "b": 7}),
        ('[["[1]", 3], ["[2]", 7]]', "answer", "answer", {}),
        ("{}", "ids", "answer", {}),
        ("null", "answer", "answer", {}),
        ("", "answer", "answer", {}),
        ("[" * 100000, "answer", "answer", {}),
        ('{"[1]": ' + "9" * 5000 + "}", "answer", "answer", {}),
    ],
)
def test_what_is_read_strictly_and_leniently(text, strict, lenient, scores):
    assert Groupwise(size=2).parse(PROMPT, Completion(text), strict=True).status == strict
    judgment = Groupwise(size=2).parse(PROMPT, Completion(text), strict=False)
    assert (judgment.status, dict(judgment.scores)) == (lenient, scores)


def by_document(scores):
    """Scores every group by what its documents deserve; a group that holds a document without a score fails."""

    def answer(prompt):
        if any(d not in scores for d in prompt.docids):
            return "no idea"
        return "{" + ", ".join(f'"[{i}]": {scores[d]}' for i, d in enumerate(prompt.docids, 1)) + "}"

    return Scripted(answer)


def test_groups_are_disjoint_random_and_asked_in_one_round():
    ex = example()
    engine = by_document({d: ex.qrels.get(d, 0) for d in ex.docids})
    [ranking], rollouts = rerank([ex], Groupwise(size=2), engine)
    assert [r.prompt.docids for r in rollouts] == [("d1", "d3"), ("d0", "d2"), ("d4",)]
    assert engine.batch_sizes == [3]
    assert ranking.docids == ("d3", "d1", "d0", "d2", "d4")  # equal scores keep the shown order


def test_groups_depend_on_the_seed_and_the_qid_only():
    def groups(seed, qid):
        return [p.docids for p in next(Groupwise(size=3, seed=seed).strategy(replace(example(30), qid=qid)))]

    assert groups(0, "q") == groups(0, "q")
    assert groups(0, "q") != groups(1, "q") and groups(0, "q") != groups(0, "r")
    # d0 to d9 are the first third of the list: of 200 queries the first group holds 1 of them, +- 4 * sqrt(.62 / 200)
    firsts = [sum(int(d[1:]) < 10 for d in groups(0, f"q{i}")[0]) for i in range(200)]
    assert abs(sum(firsts) / 200 - 1) < 0.23


def test_repeats_are_other_partitions_whose_scores_are_averaged():
    # (d1 d3) (d0 d2) (d4) and (d2 d4) (d1 d0) (d3): the first of a group gets 8, the second 2, or 5 if it is alone
    # d0 (8 + 2) / 2 = 5, d1 (8 + 8) / 2 = 8, d2 (2 + 8) / 2 = 5, d3 (2 + 5) / 2 = 3.5, d4 (5 + 2) / 2 = 3.5
    engine = Scripted(lambda p: '{"[1]": 8, "[2]": 2}' if len(p.docids) == 2 else '{"[1]": 5}')
    [ranking], rollouts = rerank([example()], Groupwise(size=2, repeats=2), engine)
    assert engine.batch_sizes == [6]
    assert [r.prompt.docids for r in rollouts[3:]] == [("d2", "d4"), ("d1", "d0"), ("d3",)]
    assert ranking.docids == ("d1", "d0", "d2", "d3", "d4")
    assert ranking.num_prompts == 6


def test_a_group_that_failed_once_leaves_the_other_repeats_scores():
    # (d1 d3) fails: d1 and d3 keep what (d1 d0) and (d3) give in the second partition, not the half of it
    answers = {("d1", "d3"): "no idea", ("d1", "d0"): '{"[1]": 9, "[2]": 1}', ("d3",): '{"[1]": 8}'}
    engine = Scripted(lambda p: answers.get(p.docids, '{"[1]": 3, "[2]": 3}' if len(p.docids) == 2 else '{"[1]": 3}'))
    [ranking], _ = rerank([example()], Groupwise(size=2, repeats=2), engine)
    # d0 (3 + 1) / 2 = 2, d1 9, d2 3, d3 8, d4 3
    assert ranking.docids == ("d1", "d3", "d2", "d4", "d0")
    assert (ranking.num_prompts, ranking.num_malformed, ranking.num_fallbacks) == (6, 1, 1)


def test_the_documents_of_a_failed_group_take_scores_between_their_neighbours_and_are_counted():
    # groups (d1 d3) (d0 d2) (d4): 1 9 | failed | 6; d2 lies between d1 and d3, (1 + 9) / 2 = 5, d0 beside d1 takes 1
    [ranking], _ = rerank([example()], Groupwise(size=2), by_document({"d1": 1, "d3": 9, "d4": 6}))
    assert ranking.docids == ("d3", "d4", "d2", "d0", "d1")
    assert (ranking.num_prompts, ranking.num_malformed, ranking.num_fallbacks) == (3, 1, 1)
    assert ranking.raw_scores == {"d1": 1, "d3": 9, "d4": 6}


def test_where_every_group_failed_the_shown_order_stays():
    ex = example()
    [ranking], _ = rerank([ex], Groupwise(size=2), Scripted(lambda p: "no idea"))
    assert (ranking.docids, ranking.num_fallbacks) == (ex.docids, 3)


def test_the_target_scales_grades_to_the_highest_score():
    ex = example()
    paradigm = Groupwise(size=5)
    [prompt] = paradigm.prompts(ex, random.Random(0))
    judgment = paradigm.parse(prompt, Completion(paradigm.target(ex, prompt)), strict=True)
    # grades 2, 1, 0 of at most 2: 10, 5, 0
    assert dict(judgment.scores) == {"d0": 0, "d1": 5, "d2": 0, "d3": 10, "d4": 0}


def test_no_repeats_are_refused():
    with pytest.raises(ValueError, match="repeats must be at least 1; got 0"):
        Groupwise(repeats=0)
