import pickle
import random

import pytest

from rl_rerank.paradigms.groupwise import Groupwise
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.types import Candidate, Completion, Judgment, Prompt, RankingExample, Rollout, Status
from rl_rerank_rewards.ndcg import NDCG

QRELS = {"b": 2, "c": 1, "elsewhere": 3}
EXAMPLE = RankingExample("q", "query", tuple(Candidate(d, f"text {d}") for d in "abcd"), QRELS)


def rollout(scores, status=Status.ok, docids=("a", "b", "c")):
    return Rollout(Prompt("q", docids, ()), Completion(""), Judgment(status, scores))


def test_the_ideal_is_over_the_window():
    # gains 0, 2, 1: (2/log2(3) + 1/log2(4)) / (2 + 1/log2(3)); "elsewhere" was not shown
    assert NDCG()(EXAMPLE, rollout({"a": 3.0, "b": 2.0, "c": 1.0})) == pytest.approx(0.66967, abs=1e-5)


def test_equal_scores_earn_the_mean_of_their_orders():
    # mean gain (0 + 2 + 1) / 3 = 1 on each rank: (1 + 0.63093 + 0.5) / 2.63093
    assert NDCG()(EXAMPLE, rollout({"a": 5.0, "b": 5.0, "c": 5.0})) == pytest.approx(0.80996, abs=1e-5)


@pytest.mark.parametrize("status", [Status.repaired, Status.ids, Status.answer, Status.tags])
def test_what_is_not_well_formed_earns_the_configured_value(status):
    scores = {"b": 3.0, "c": 2.0, "a": 1.0} if status == Status.repaired else {}
    assert NDCG(malformed=-0.2)(EXAMPLE, rollout(scores, status)) == -0.2


def test_a_window_without_relevant_documents_earns_nothing():
    assert NDCG()(EXAMPLE, rollout({"a": 2.0, "d": 1.0}, docids=("a", "d"))) == 0.0


def test_one_document_has_only_one_order():
    with pytest.raises(ValueError, match="ndcg needs prompts of at least 2 documents"):
        NDCG()(EXAMPLE, rollout({"a": 1.0}, docids=("a",)))


@pytest.mark.parametrize("paradigm", [Listwise(window=4), Groupwise(size=4), Listwise(window=4, reasoning=True)])
def test_the_gold_answer_earns_the_most(paradigm):
    for seed in range(20):
        [prompt] = paradigm.prompts(EXAMPLE, random.Random(seed))
        completion = Completion(paradigm.target(EXAMPLE, prompt))
        gold = Rollout(prompt, completion, paradigm.parse(prompt, completion, strict=True))
        assert NDCG()(EXAMPLE, gold) == pytest.approx(1.0)


def test_it_survives_pickling():
    assert pickle.loads(pickle.dumps(NDCG(k=3, malformed=-1.0))) == NDCG(k=3, malformed=-1.0)
