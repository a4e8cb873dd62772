"""Orders measured together are worth what the measures say one by one."""

import random

import pytest
from support.rollouts import example, malformed

from rl_rerank.metrics import average_overlap, by_place, ndcg, rbo, recall
from rl_rerank.metrics.orders import Orders
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.reward.base import Term, evaluate
from rl_rerank.types import Completion, Prompt, Rollout
from rl_rerank_rewards.multiview import MultiView


def test_orders_by_hand():
    # documents 1 2 3 of grades 0 2 1, gold 2 1 3; the order 3 2 1:
    # DCG@2 = 1 + 2/log2(3) = 2.26186 of 2 + 1/log2(3) = 2.63093; 1 of 2 in the first one;
    # shared 0 of 1, 1 of 2, 3 of 3: (0 + .5 + 1) / 3
    found = Orders([0, 2, 1], [2.0, 3.0, 1.0], k=2, recall_k=1)((3, 2, 1))
    assert found == pytest.approx((2.26186 / 2.63093, 0.5, 0.5), abs=1e-5)


@pytest.mark.parametrize("p", [1.0, 0.9, 0.3])
def test_orders_equal_the_measures_one_by_one(p):
    rng = random.Random(p)
    for _ in range(200):
        n, k, recall_k = rng.randint(1, 25), rng.randint(1, 12), rng.randint(1, 12)
        docids = [f"d{i}" for i in range(n)]
        grades = [rng.choice((-1, 0, 0, 1, 3)) for _ in docids]
        gold = [float(rng.choice((rng.randint(0, 4), i))) for i in rng.sample(range(n), n)]
        orders = Orders(grades, gold, k=k, recall_k=recall_k, p=p)
        for _ in range(3):
            order = rng.sample(range(1, n + 1), n)
            scores, qrels = by_place([docids[i - 1] for i in order]), dict(zip(docids, grades, strict=True))
            reference = dict(zip(docids, gold, strict=True))
            overlap = average_overlap(scores, reference) if p == 1 else rbo(scores, reference, p=p)
            expected = ndcg(scores, qrels, k=k), recall(scores, qrels, k=recall_k), overlap
            assert orders(order) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("cutoff", [{"k": 0, "recall_k": 1}, {"k": 1, "recall_k": 0}])
def test_a_cutoff_below_1_is_refused(cutoff):
    with pytest.raises(ValueError, match="k must be >= 1; got 0"):
        Orders([1, 0], [1.0, 0.0], **cutoff)


@pytest.mark.parametrize(
    "reward", [MultiView(), MultiView(recall_k=None, p=0.8), MultiView(check_range=False)], ids=str
)
def test_multiview_of_a_group_is_what_its_terms_say_one_by_one(reward):
    paradigm, docids = Listwise(reasoning=True), "abcdefgh"
    prompt, rng = Prompt("q", tuple(docids), (), "listwise"), random.Random(0)
    for gold in (example({"b": 2, "g": 1}, docids, order=tuple("hgfedcba")), example({"a": 1, "c": 2}, docids)):
        texts = ["[1]", "no order", *(" > ".join(f"[{i}]" for i in rng.sample(range(1, 9), 8)) for _ in range(6))]
        texts.insert(3, " > ".join(f"[{i}]" for i in range(8)))
        said = [Completion(f"<think></think><answer>{text}</answer>") for text in texts] + [Completion("?")]
        group = [Rollout(prompt, one, paradigm.parse(prompt, one, strict=True)) for one in said]
        # A prompt that does not say who reads its answers: each by the terms themselves.
        alone = [Rollout(Prompt("q", tuple(docids), ()), one.completion, one.judgment) for one in group]
        together = evaluate(Term("multiview", reward), gold, group)
        for found, rollout in zip(together, alone, strict=True):
            expected = reward.explain(gold, rollout)
            assert found.value == pytest.approx(expected.value, abs=1e-12)
            assert found.parts == pytest.approx(expected.parts, abs=1e-12)


def test_a_group_about_one_document_is_refused():
    prompt = Prompt("q", ("a",), (), "listwise")
    one = Completion("[1]")
    rollout = Rollout(prompt, one, Listwise().parse(prompt, one, strict=True))
    with pytest.raises(ValueError, match="multiview needs prompts of at least 2 documents"):
        MultiView().explain(example({"a": 1}, "a"), rollout)
    assert MultiView().explain(example({"a": 1}, "a"), malformed("a")).value == 0.0
