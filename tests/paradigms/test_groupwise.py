import random

import pytest

from rl_rerank.engines.scripted import Scripted
from rl_rerank.paradigms.groupwise import Groupwise
from rl_rerank.rerank import rerank
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
        ('{"[1]": ' + "9" * 5000 + "}", "answer", "repaired", {"a": 10, "b": 9}),
    ],
)
def test_what_is_read_strictly_and_leniently(text, strict, lenient, scores):
    assert Groupwise(size=2).parse(PROMPT, Completion(text), strict=True).status == strict
    judgment = Groupwise(size=2).parse(PROMPT, Completion(text), strict=False)
    assert (judgment.status, dict(judgment.scores)) == (lenient, scores)


def test_groups_are_disjoint_and_asked_in_one_round():
    ex = example()
    engine = Scripted(
        lambda p: "{" + ", ".join(f'"[{i}]": {ex.qrels.get(d, 0)}' for i, d in enumerate(p.docids, 1)) + "}"
    )
    [ranking], rollouts = rerank([ex], Groupwise(size=2), engine)
    assert [len(r.prompt.docids) for r in rollouts] == [2, 2, 1]
    assert engine.batch_sizes == [3]
    assert ranking.docids == ("d3", "d1", "d0", "d2", "d4")  # equal scores keep the shown order


def test_the_documents_of_a_failed_group_take_scores_between_their_neighbours_and_are_counted():
    # groups (d0 d1) (d2 d3) (d4): 1 9 | failed | 6; from d1 to d4 the line 9 8 7 6, so d2 takes 8 and d3 takes 7
    answers = {"d0": '{"[1]": 1, "[2]": 9}', "d2": "no idea", "d4": '{"[1]": 6}'}
    [ranking], _ = rerank([example()], Groupwise(size=2), Scripted(lambda p: answers[p.docids[0]]))
    assert ranking.docids == ("d1", "d2", "d3", "d4", "d0")
    assert dict(ranking.scores) == {"d1": 9, "d2": 8, "d3": 7, "d4": 6, "d0": 1}
    assert (ranking.num_prompts, ranking.num_malformed, ranking.num_fallbacks) == (3, 1, 1)
    assert ranking.raw_scores == {"d0": 1, "d1": 9, "d4": 6}


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
