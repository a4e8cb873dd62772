"""Curricula: signals, weights and orders against the paper's numbers, scipy, and a count of draws."""

import itertools
from collections import Counter

import numpy as np
import pytest
from scipy.stats import gaussian_kde
from support.grpo_trainer import examples

from rl_rerank.config import CurriculumConfig
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.training.loop.curriculum import SIGNALS, FirstStage, drawn, ease, generator, kdescore, normscore, weight
from rl_rerank.training.loop.pass_rate import FLOOR, AdaptiveQuestions, PassRates
from rl_rerank.training.loop.training_prompts import Questions
from rl_rerank.types import Candidate, RankingExample


def example(qid="q", ranks=(1, 2, 4), scores=(9.0, 5.0, 1.0), grades=(0, 1, 0)):
    candidates = tuple(
        Candidate(f"{qid}{i}", f"text {i}", rank=rank, score=score)
        for i, (rank, score) in enumerate(zip(ranks, scores, strict=True))
    )
    return RankingExample(qid, "a query", candidates, {f"{qid}{i}": grade for i, grade in enumerate(grades)})


def test_the_weights_are_those_of_the_paper():
    # W = D + t/m (1 - D) for D = .2, m = 20: .2; .2 + .25 x .8; .2 + .5 x .8; .2 + .95 x .8; 1
    assert [weight(0.2, t, 20) for t in (0, 5, 10, 19, 20)] == pytest.approx([0.2, 0.4, 0.6, 0.96, 1.0])
    assert weight(0.2, 1000, 20) == 1.0


def test_signals_of_documents():
    assert SIGNALS["reciprank"](example()) == {"q0": 1.0, "q1": 0.5, "q2": 0.25}
    # The second was not retrieved, and in a collection without ranks the order is the first stage's.
    assert SIGNALS["reciprank"](example(ranks=(1, None, 2))) == {"q0": 1.0, "q1": 0.001, "q2": 0.5}
    assert SIGNALS["reciprank"](example(ranks=(None,) * 3)) == {"q0": 1.0, "q1": 0.5, "q2": pytest.approx(1 / 3)}
    assert normscore(example()) == {"q0": 1.0, "q1": 0.5, "q2": 0.0}
    assert normscore(example(scores=(3.0, None, 1.0))) == {"q0": 1.0, "q1": 0.0, "q2": 0.0}
    assert normscore(example(scores=(2.0, 2.0, 2.0))) == {"q0": 0.0, "q1": 0.0, "q2": 0.0}


def test_the_density_is_scipys():
    scores = (12.5, 9.0, 8.8, 7.0, 1.5, 1.5, 0.3)
    density = gaussian_kde(scores)
    found = kdescore(example(ranks=range(1, 8), scores=scores, grades=(0,) * 7))
    assert list(found.values()) == pytest.approx([density.integrate_box_1d(-np.inf, s) for s in scores], abs=1e-9)
    # gaussian_kde fails on scores that do not differ.
    assert kdescore(example(scores=(2.0, 2.0, None))) == {"q0": 0.5, "q1": 0.5, "q2": 0.0}


def test_a_query_is_as_easy_as_the_mean_of_its_pairs():
    # Relevant is the second: (.5 - 1 + 1) / 2 = .25 and (.5 - .25 + 1) / 2 = .625
    assert ease(example(), SIGNALS["reciprank"]) == pytest.approx((0.25 + 0.625) / 2)
    # Grades 2 > 1 > 0: (1 - .5 + 1) / 2, (1 - .25 + 1) / 2, (.5 - .25 + 1) / 2
    assert ease(example(grades=(2, 1, 0)), SIGNALS["reciprank"]) == pytest.approx((0.75 + 0.875 + 0.625) / 3)
    assert ease(example(grades=(1, 1, 1)), SIGNALS["reciprank"]) == 0.5


def test_a_curriculum_of_scores_needs_them():
    with pytest.raises(ValueError, match="kdescore needs first-stage scores, and the candidates of qid 'q' have none"):
        FirstStage(CurriculumConfig(kind="kdescore"), [example(scores=(None,) * 3)])


def firsts(anti, step, times=4000):
    """How often each of three queries comes first; they are easy by 1/2 + 3/8 = .875, .5 and .125."""
    asked = [
        example("easy", (1, 4), (1, 0), (1, 0)),
        example("even", (1, 1), (1, 0), (1, 0)),
        example("hard", (1, 4), (1, 0), (0, 1)),
    ]
    curriculum = FirstStage(CurriculumConfig(steps=10, anti=anti), asked)
    expected = [0.125, 0.5, 0.875] if anti else [0.875, 0.5, 0.125]
    assert curriculum.ease.tolist() == pytest.approx(expected)
    counts = Counter(asked[next(curriculum.one_pass(str(i), lambda: step))].qid for i in range(times))
    return [counts[q.qid] / times for q in asked]


@pytest.mark.parametrize(
    ("anti", "step", "expected"),
    [
        (False, 0, [0.875, 0.5, 0.125]),
        (True, 0, [0.125, 0.5, 0.875]),
        (False, 5, [0.9375, 0.75, 0.5625]),  # D + (1 - D) / 2
        (False, 10, [1.0, 1.0, 1.0]),
        (True, 10, [1.0, 1.0, 1.0]),
    ],
)
def test_queries_are_drawn_in_proportion_to_their_weights(anti, step, expected):
    # 4,000 draws: 4 standard errors are at most 4 sqrt(.25 / 4000) = .032
    shares = np.array(expected) / sum(expected)
    assert np.abs(np.array(firsts(anti, step)) - shares).max() < 0.032


def test_orders_are_draws_without_replacement():
    # Weights 3, 2, 1: P(0, 1, 2) = 3/6 x 2/3 = 1/3, P(2, 1, 0) = 1/6 x 2/5 = 1/15, and so on.
    weights, rng = np.array([3.0, 2.0, 1.0]), generator("orders")
    counts = Counter(tuple(drawn(weights, rng).tolist()) for _ in range(6000))
    for order in itertools.permutations(range(3)):
        left, expected = 6.0, 1.0
        for i in order:
            expected *= weights[i] / left
            left -= weights[i]
        assert abs(counts[order] / 6000 - expected) < 4 * (0.25 / 6000) ** 0.5


def test_a_pass_asks_every_query_once_and_the_same_on_every_process(chatml_tokenizer):
    renderer = Renderer(chatml_tokenizer, max_prompt_tokens=400)
    curriculum = FirstStage(CurriculumConfig(steps=4), examples())

    def asked():
        return Questions(
            examples(), Listwise(window=3, stride=1), renderer, count=12, seed=1, curriculum=curriculum, step_size=2
        )

    qids = [q.example.qid for q in asked()]
    assert sorted(qids[:6]) == sorted(qids[6:]) == [f"q{i}" for i in range(6)]
    assert qids == [q.example.qid for q in asked()]


def test_pass_rates_favour_what_is_answered_well_half_of_the_time():
    rates = PassRates(0.5)
    rates.observe([("half", 1.0), ("half", 0.0), *[("solved", 0.5)] * 98, *[("hopeless", 0.49)] * 4])
    assert rates.weight("never") == 1.0  # p = 1/2
    assert rates.weight("half") == 1.0  # p = 2/4
    assert rates.weight("hopeless") == pytest.approx(4 * (1 / 6) * (5 / 6))
    assert rates.weight("solved") == FLOOR  # p = 99/100: 4 x .0099 = .0396


def adaptive(tokenizer, rates):
    renderer = Renderer(tokenizer, max_prompt_tokens=400)
    return AdaptiveQuestions(examples(), Listwise(window=3, stride=1), renderer, rates, steps=50, block=4, seed=1)


def test_adaptive_questions_follow_what_was_observed_until_their_step(chatml_tokenizer, tmp_path):
    rates = PassRates(0.5)
    asked = adaptive(chatml_tokenizer, rates)
    assert len(asked) == 200
    first = [asked[i].example.qid for i in range(4)]
    assert len(set(first)) == 4  # without repetition
    rates.observe([(f"q{i}", 1.0) for i in range(5) for _ in range(500)])  # all but q5 are solved
    assert [asked[i].example.qid for i in range(4)] == first  # made, and so the same for all who ask
    counts = Counter(asked[4 * step].example.qid for step in range(1, 50))
    # q5 has weight 1 of 1 + 5 x .05 = 1.25, so 80% of first draws: 39 of 49, within 4 standard errors of 2.8
    assert 28 <= counts["q5"] <= 49
    # Another process, or a resumed run, with the same counts asks the same.
    again = adaptive(chatml_tokenizer, PassRates(0.5))
    again.rates.counts = rates.counts
    assert [asked[i] for i in range(80, 88)] == [again[i] for i in range(80, 88)]
    assert len({q.query for q in asked}) == len(asked)


def test_more_prompts_a_step_than_queries_are_asked_again(chatml_tokenizer):
    renderer = Renderer(chatml_tokenizer, max_prompt_tokens=400)
    found = AdaptiveQuestions(
        examples()[:3], Listwise(window=3, stride=1), renderer, PassRates(0.5), steps=1, block=7, seed=1
    )
    assert Counter(q.example.qid for q in found[:7]).most_common()[-1][1] == 2
