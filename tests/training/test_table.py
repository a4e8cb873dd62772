"""The completions table: rankings as they were read, nDCG of the prompt, and a key of its own for every step."""

import math
from collections import Counter

import pytest
import wandb

from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.training.loop import table, training_log
from rl_rerank.types import Candidate, Completion, Judgment, Prompt, RankingExample, Rollout, Status

EXAMPLE = RankingExample("q", "a query", tuple(Candidate(d, d) for d in "abcd"), {"b": 2, "d": 1})


def rollout(text, docids=("a", "b", "c")):
    prompt, completion = Prompt("q", docids, (), "listwise"), Completion(text)
    return Rollout(prompt, completion, Listwise().parse(prompt, completion, strict=True))


def test_a_row_has_the_ranking_that_was_read_and_its_ndcg_over_the_prompt():
    row = table.row(3, EXAMPLE, rollout("[3] > [2] > [1]"), {"ndcg": 0.6}, 0.6)
    assert (row["step"], row["qid"], row["query"], row["status"]) == (3, "q", EXAMPLE.query, "ok")
    assert row["ranking"] == ["c", "b", "a"]
    # b, the only relevant one that is shown, stands second.
    assert row["nDCG@10"] == pytest.approx(1 / math.log2(3))
    assert row["rewards"] == {"ndcg": 0.6} and row["reward"] == 0.6


def test_equal_scores_stand_in_the_order_of_the_prompt_and_count_in_expectation():
    prompt = Prompt("q", ("a", "b", "c"), (), "groupwise")
    judged = Rollout(prompt, Completion("x"), Judgment(Status.ok, {"a": 1.0, "b": 1.0, "c": 0.0}))
    row = table.row(1, EXAMPLE, judged, {}, 0.0)
    assert row["ranking"] == ["a", "b", "c"]
    assert row["nDCG@10"] == pytest.approx((1 + 1 / math.log2(3)) / 2)


@pytest.mark.parametrize("unread", [rollout("no answer"), rollout("[1]", ("a",))])
def test_what_is_no_ranking_has_none(unread):
    row = table.row(1, EXAMPLE, unread, {}, 0.0)
    assert row["ranking"] is None and row["nDCG@10"] is None


def test_every_step_has_a_table_of_its_own_in_wandb(monkeypatch):
    logged = []
    monkeypatch.setattr(wandb, "run", object())
    monkeypatch.setattr(wandb, "log", logged.append)
    for step, text in ((7, "[3] > [2] > [1]"), (8, "no answer")):
        row = table.row(step, EXAMPLE, rollout(text), {"ndcg": 0.5}, 0.5) | {"advantage": 1.0}
        training_log._log_table([row], step)
    first, second = logged
    assert [*first, *second] == ["completions/step_00007", "completions/step_00008"]
    shown = first["completions/step_00007"]
    assert shown.columns == ["step", "qid", "completion", "status", "ranking", "nDCG@10", "ndcg", "reward", "advantage"]
    assert shown.data[0][4:6] == ["c > b > a", pytest.approx(1 / math.log2(3))]
    assert second["completions/step_00008"].data[0][4:6] == [None, None]


def test_whole_queries_are_drawn_and_one_at_least():
    rows = [{"step": step, "qid": qid, "n": n} for step in (1, 2) for qid in "abcde" for n in range(4)]
    assert table.drawn(rows, 20) == rows
    some = table.drawn(rows, 11)
    for step in (1, 2):
        kept = [row["qid"] for row in some if row["step"] == step]
        assert len(kept) == 8 and all(kept.count(qid) == 4 for qid in kept)
    assert some == [row for row in rows if row in some] == table.drawn(rows, 11)
    assert len(table.drawn(rows, 3)) == 8  # a query of each step
    many = [{"step": step, "qid": qid} for step in range(300) for qid in "abcde"]
    counts = Counter(row["qid"] for row in table.drawn(many, 2))
    assert sum(counts.values()) == 600 and all(90 < count < 150 for count in counts.values())
