"""How much of the model's probability lies on the answers that it is scored by."""

import math

import pytest
import torch

from rl_rerank.config import ModelConfig
from rl_rerank.engines.local.checkpoint import renderer
from rl_rerank.engines.local.hf import HFEngine
from rl_rerank.engines.scripted import Scripted
from rl_rerank.paradigms.first_token import FirstToken
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.paradigms.pipeline import Pipeline
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.paradigms.pointwise_graded import PointwiseGraded
from rl_rerank.paradigms.setwise import Setwise
from rl_rerank.ranking.answer_share import shares, warning
from rl_rerank.ranking.driver import rerank
from rl_rerank.types import Candidate, RankingExample

EXAMPLE = RankingExample("q", "caves", tuple(Candidate(f"d{i}", f"ice {i} " * (i + 1)) for i in range(3)), {})


@pytest.fixture(scope="module")
def engine(tiny_model_dir):
    return HFEngine(tiny_model_dir, renderer(ModelConfig(max_prompt_tokens=400), tiny_model_dir))


@pytest.mark.parametrize(
    ("paradigm", "answers"),
    [
        (Pointwise(), ("yes", "no")),
        (FirstToken(window=9), ("A", "B", "C")),  # six more letters are scored, and name no document
        (Setwise(mode="scoring", children=8), ("A", "B", "C")),
    ],
    ids=str,
)
def test_the_share_is_the_sum_of_the_answers_probabilities_over_the_vocabulary(engine, paradigm, answers):
    _, rollouts = rerank([EXAMPLE], paradigm, engine)
    expected = []
    for rollout in rollouts:
        with torch.no_grad():
            logits = engine.model(torch.tensor([engine.render(rollout.prompt)])).logits[0, -1]
        ids = [engine.renderer.continuation_ids(text)[0] for text in answers[: len(rollout.prompt.docids) + 1]]
        if len(rollout.prompt.docids) > 1:
            ids = ids[: len(rollout.prompt.docids)]
        expected.append(logits.softmax(0)[ids].sum().item())
    [share] = shares(rollouts, paradigm, engine)
    assert share.answers == answers
    assert share.mean == pytest.approx(sum(expected) / len(expected), rel=1e-5)


def test_what_a_model_would_rather_say_is_named(engine):
    _, rollouts = rerank([EXAMPLE], Pointwise(), engine)
    [share] = shares(rollouts, Pointwise(), engine)
    firsts = []
    for rollout in rollouts:
        with torch.no_grad():
            best = engine.model(torch.tensor([engine.render(rollout.prompt)])).logits[0, -1].argmax().item()
        firsts.append(engine.renderer.tokenizer.decode([best]))
    said = warning(share, engine)
    assert f"only {share.mean:.1%} of the probability lies on the answers 'yes', 'no'" in said
    assert f"{max(firsts, key=firsts.count)!r} for {max(map(firsts.count, firsts))} of 3 prompts" in said


def test_shares_are_added_up_by_paradigm_and_no_text_is_counted_twice():
    values = {"yes": 0.25, "yes, very": 0.125, "A": 0.5, "B": 0.25, "C": 0.125}
    engine = Scripted(lambda _: "", lambda _, text: math.log(values[text]))
    nested = Pointwise(positive="yes", negative="yes, very")
    # What begins with "yes" is within its .25.
    assert [s.mean for s in shares(rerank([EXAMPLE], nested, engine)[1], nested, engine)] == [pytest.approx(0.25)]
    values["no"] = 0.5
    piped = Pipeline(stages=[{"paradigm": "pointwise"}, {"paradigm": "first_token", "params": {"window": 3}}])
    found = shares(rerank([EXAMPLE], piped, engine)[1], piped, engine)
    assert [(s.answers, s.mean) for s in found] == [
        (("yes", "no"), pytest.approx(0.75)),
        (("A", "B", "C"), pytest.approx(0.875)),
    ]


def test_nothing_is_said_where_no_probability_is_known():
    written = Scripted(lambda _: "[1] > [2] > [3]")
    assert shares(rerank([EXAMPLE], Listwise(), written)[1], Listwise(), written) == []
    for value in (2.0, math.nan):  # grades instead of log-probabilities, and none that is finite
        engine = Scripted(lambda _: "", lambda _, text, value=value: value)
        paradigm = PointwiseGraded(rule="expected")
        assert shares(rerank([EXAMPLE], paradigm, engine)[1], paradigm, engine) == []
