"""Rewards in processes of their own: the same values, an end to what hangs, and errors that say where."""

import os
import time

import pytest
import torch
from support.grpo_trainer import trainer
from support.slow_rewards import Marks, Places, Process, Told

from rl_rerank.reward.base import Breakdown, Recipe, RewardError, Term, evaluate
from rl_rerank.reward.workers import Workers
from rl_rerank.training.loop.scoring import score_rows
from rl_rerank.training.loop.training_prompts import Question
from rl_rerank.types import Completion, Judgment, Prompt, RankingExample, Rollout, Status
from rl_rerank_rewards.multiview import MultiView

pytestmark = pytest.mark.process

EXAMPLE = RankingExample("q7", "query", (), {"a": 1}, order=("a", "b"))
PROMPT = Prompt("q7", ("a", "b"), ())
OK = Judgment(Status.ok, {"a": 2.0, "b": 1.0}, (1, 2))


def said(text):
    return Rollout(PROMPT, Completion(text), OK)


def call(text):
    return EXAMPLE, [said(text)]


def term(name, cls, params=None, **fields):
    """A term whose reward other processes can build."""
    recipe = Recipe(name, params or {}, f"{cls.__module__}:{cls.__name__}")
    return Term(name, recipe.build(), recipe=recipe, **fields)


@pytest.fixture
def workers():
    """Makes the workers of a term, and ends them."""
    made = []

    def make(*args, **fields):
        made.append(Workers(term(*args, **fields)))
        return made[-1]

    yield make
    for some in made:
        some.close()


def test_answers_come_in_order_from_several_processes_which_stay(workers):
    told = workers("told", Told, workers=2)
    assert told.evaluate([call(str(i)) for i in range(7)]) == [[Breakdown(float(i))] for i in range(7)]
    seen = workers("process", Process, workers=2)
    first, second = ({found.value for [found] in seen.evaluate([call("")] * 6)} for _ in range(2))
    assert first == second
    assert len(first) == 2 and os.getpid() not in first


def test_a_composition_gives_its_parts(workers):
    alone = term("multiview", MultiView, workers=1)
    [found] = workers("multiview", MultiView, workers=1).evaluate([(EXAMPLE, [said(""), said("")])])
    assert found == evaluate(alone, EXAMPLE, [said(""), said("")])
    assert set(found[0].parts) == {"ndcg", "recall", "overlap"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wait", "reward 'told' took longer than timeout=0.5 s for qid 'q7' and the completion 'wait'"),
        ("fail", "reward 'told' failed for qid 'q7' and the completion 'fail': KeyError: 'fail'"),
        ("die", "reward 'told': its process ended with status 3 on qid 'q7' and the completion 'die'"),
    ],
)
def test_what_fails_is_told_or_worth_what_is_configured_and_the_rest_goes_on(workers, text, message):
    asked = [call("1"), call(text), call("2"), call("3")]
    with pytest.raises(RewardError, match=message):
        workers("told", Told, workers=1, timeout=0.5).evaluate(asked)
    patient = workers("told", Told, workers=1, timeout=0.5, failed=-1.0)
    expected = [[Breakdown(1.0)], [Breakdown(-1.0, {"failed": -1.0})], [Breakdown(2.0)], [Breakdown(3.0)]]
    assert patient.evaluate(asked) == expected


def test_a_reward_that_cannot_be_built_in_its_process_is_an_error(tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text("class Mine:\n    def __call__(self, example, rollout):\n        return 1.0\n")
    recipe = Recipe("mine", {}, f"{mine}:Mine")
    some = Workers(Term("mine", recipe.build(), workers=1, recipe=recipe))
    assert some.evaluate([call("1")]) == [[Breakdown(1.0)]]
    some.close()
    mine.write_text("raise RuntimeError('not here')\n")
    with pytest.raises(RewardError, match=r"'mine' cannot be built in a process of its own: .*RuntimeError: not here"):
        some.evaluate([call("1")])


def test_a_term_with_workers_needs_what_they_build_it_from():
    with pytest.raises(ValueError, match="reward 'told' has workers, which build it by name"):
        Workers(Term("told", Told(), workers=1))


def test_rows_of_a_batch_are_scored_there_alone_and_as_whole_queries(workers):
    prompts = [Prompt("q", (docid,), ()) for docid in "ab"]
    about = [Question(EXAMPLE, prompt, (), 0) for prompt in prompts]
    rows = [(i // 2, Completion(str(i)), OK) for i in range(4)]
    terms = [term("told", Told, workers=2), term("places", Places, workers=1)]
    own = {"told": workers("told", Told, workers=2), "places": workers("places", Places, workers=1)}
    found = score_rows(terms, about, rows, lambda some: some, num_generations=2, workers=own)
    assert [value["told"].value for value in found.values] == [0.0, 1.0, 2.0, 3.0]
    assert [value["places"].value for value in found.values] == [0.0, 1.0, 2.0, 3.0]


def test_what_was_begun_is_answered_and_other_calls_are_answered_anew(workers):
    some = workers("process", Process, workers=2)
    calls = [call("a"), call("b")]
    some.begin(calls)
    first = some.evaluate(list(calls))
    assert {found.value for [found] in first} <= {float(worker.process.pid) for worker in some._idle}
    told = workers("told", Told, workers=1)
    told.begin([call("1")])
    assert told.evaluate([call("2")]) == [[Breakdown(2.0)]]
    told.begin([call("fail")])
    with pytest.raises(RewardError, match="failed for qid 'q7' and the completion 'fail'"):
        told.evaluate([call("fail")])


def test_a_slow_reward_begins_before_the_forwards_of_its_step(tiny_model_dir, chatml_tokenizer, tmp_path):
    terms = [term("marks", Marks, {"folder": str(tmp_path)}, workers=1)]
    run = trainer(tiny_model_dir, chatml_tokenizer, tmp_path, beta=0.1, max_steps=1, terms=terms)
    inner, seen = run._get_per_token_logps_and_entropies, []

    def waiting(*args, **kwargs):
        if not torch.is_grad_enabled():  # the reference's forward goes on when the reward has been called
            deadline = time.monotonic() + 240
            while not (tmp_path / "called").exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            seen.append((tmp_path / "called").exists())
        return inner(*args, **kwargs)

    run._get_per_token_logps_and_entropies = waiting
    run.train()
    assert seen == [True]
    assert all(row["reward"] == len(row["completion"]) for row in run.completions)
    assert len({row["reward"] for row in run.completions}) > 1
