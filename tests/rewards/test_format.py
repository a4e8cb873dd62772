import pickle

import pytest

from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.types import Completion, Judgment, Prompt, RankingExample, Rollout, Status
from rl_rerank_rewards.format import Format

EXAMPLE = RankingExample("q", "query", ())
PROMPT = Prompt("q", ("a", "b"), ())


@pytest.mark.parametrize(
    ("text", "tier"),
    [
        ("<think>x</think><answer>[2] > [1]</answer>", "ok"),
        ("<think>x</think><answer>[2] > [2]</answer>", "ids"),
        ("<think>x</think><answer>[2] > [1] > [0]</answer>", "ids"),
        ("<think>x</think><answer>two, one</answer>", "answer"),
        ("<think>x</think><answer></answer>", "answer"),
        ("<think>x</think>[2] > [1]", "tags"),
        ("<think>x</think><answer>[2] > [1]</answer><answer>[2] > [1]</answer>", "tags"),
        ("", "tags"),
    ],
)
def test_each_completion_earns_its_rung(text, tier):
    completion = Completion(text)
    judgment = Listwise(window=2, reasoning=True).parse(PROMPT, completion, strict=True)
    tiers = Format(ok=0.1, ids=-0.2, answer=-0.3, tags=-0.4)
    assert tiers(EXAMPLE, Rollout(PROMPT, completion, judgment)) == getattr(tiers, tier)


def test_the_default_ladder_rises_from_bad_to_good():
    values = [
        Format()(EXAMPLE, Rollout(PROMPT, Completion(""), Judgment(status)))
        for status in (Status.tags, Status.answer, Status.ids, Status.ok)
    ]
    assert values == sorted(values) and len(set(values)) == 4 and values[-1] == 0.0


def test_a_mended_answer_stands_on_the_rung_below_a_well_formed_one():
    assert Format()(EXAMPLE, Rollout(PROMPT, Completion(""), Judgment(Status.repaired))) == Format().ids


def test_a_ladder_that_rewards_worse_form_is_refused():
    with pytest.raises(ValueError, match="tags <= answer <= ids <= ok"):
        Format(ok=0.0, tags=0.5)


def test_it_survives_pickling():
    assert pickle.loads(pickle.dumps(Format(ok=0.5))) == Format(ok=0.5)
