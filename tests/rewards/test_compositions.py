"""Published rewards on valid completions, by hand; how their parts are told; what their parameters refuse."""

import pickle

import pytest
from support.rollouts import GRADED, GROUPWISE, LISTWISE, answer, example, malformed, scored

from rl_rerank.reward.base import Term, evaluate
from rl_rerank_rewards.erank import ERank
from rl_rerank_rewards.grouprank import GroupRank
from rl_rerank_rewards.mm_r5 import MMR5
from rl_rerank_rewards.multiview import MultiView
from rl_rerank_rewards.pooled_reciprocal_rank import PooledReciprocalRank, pooled_ranks
from rl_rerank_rewards.prorank import ProRank
from rl_rerank_rewards.rank_r1 import RankR1

TWENTY = "abcdefghijklmnopqrst"


def listed(*ids):
    return " > ".join(f"[{i}]" for i in ids)


IDENTITY = answer(LISTWISE, listed(*range(1, 21)), TWENTY)


def test_multiview_is_at_most_1_3_as_published_and_1_2878_with_rank_biased_overlap():
    gold = example({"a": 1, "b": 1}, TWENTY, order=tuple(TWENTY))
    assert MultiView()(gold, IDENTITY) == pytest.approx(1.3)  # 1 + .2 + .1
    assert MultiView(p=0.9)(gold, IDENTITY) == pytest.approx(1.2878, abs=5e-5)  # 1 + .2 + .1 * .8784


@pytest.mark.parametrize(
    ("places", "ndcg", "recall"),
    [
        ((1, 11), 0.61315, 0.5),  # 1 / 1.63093; one of two is among the ten that move on
        ((9, 10), 0.36181, 1.0),  # (.30103 + .28906) / 1.63093; both move on
    ],
)
def test_multiview_tells_its_parts(places, ndcg, recall):
    relevant = {TWENTY[place - 1]: 1 for place in places}
    found = MultiView().explain(example(relevant, TWENTY, order=tuple(TWENTY)), IDENTITY)
    assert found.parts == pytest.approx({"ndcg": ndcg, "recall": recall, "overlap": 1.0}, abs=1e-5)
    assert found.value == pytest.approx(ndcg + 0.2 * recall + 0.1, abs=1e-5)


def test_a_gate_is_told_instead_of_the_parts():
    assert MultiView().explain(example({"a": 1}), malformed()).parts == {"gate": 0.0}
    [found] = evaluate(Term("grouprank", GroupRank()), example({"a": 1}), [malformed()])
    assert (found.value, found.parts) == (-0.1, {"gate": -0.1})


def test_grouprank_by_hand():
    # scores 4 3 2 1 against gold 2 1 1 0: JS of (.4 .3 .2 .1) and (.5 .25 .25 0) = .05767 bits
    found = GroupRank().explain(
        example({"a": 2, "b": 1, "c": 1}, "abcd"),
        answer(GROUPWISE, '{"[1]": 4, "[2]": 3, "[3]": 2, "[4]": 1}', "abcd"),
    )
    assert found.parts == pytest.approx({"ndcg": 1.0, "recall": 1.0, "alignment": 1 - 0.05767}, abs=1e-5)
    assert found.value == pytest.approx(1 + 0.2 + 0.1 * 0.94233, abs=1e-5)


def test_grouprank_of_zeros_only_is_uniform_and_in_every_order_at_once():
    gold = example({"a": 1}, "abcd", scores={"a": 10, "b": 0, "c": 0, "d": 0})
    zeros = answer(GROUPWISE, '{"[1]": 0, "[2]": 0, "[3]": 0, "[4]": 0}', "abcd")
    found = GroupRank(recall_k=None).explain(gold, zeros)
    # nDCG (1 + .63093 + .5 + .43068) / 4; recall@2 of 4: 1/2. P uniform, Q = (1, 0, 0, 0), M = (.625, .125 x 3):
    # KL(P|M) = .25 log2(.4) + .75 * 1 = .41952, KL(Q|M) = -log2(.625) = .67807
    assert found.parts == pytest.approx({"ndcg": 0.64040, "recall": 0.5, "alignment": 1 - 0.54880}, abs=1e-4)


def test_mm_r5_by_hand():
    # relevant 2 and 4, [4, 1, 2, 3, 5]: (1 + 1/27) / (1 + 1/8) = .9218, and a format of 1
    assert MMR5()(example({"b": 1, "d": 1}), answer(LISTWISE, listed(4, 1, 2, 3, 5))) == pytest.approx(1.9218, abs=5e-5)
    # relevant 5 on rank 5: 1/125
    assert MMR5()(example({"e": 1}), answer(LISTWISE, listed(1, 2, 3, 4, 5))) == pytest.approx(1.008)


def test_mm_r5_pays_the_form_by_degrees():
    assert MMR5()(example({}), answer(LISTWISE, listed(1, 2, 3, 4))) == pytest.approx(0.8)  # 1 - 1/5
    eleven = answer(LISTWISE, listed(*[1] * 11))
    assert MMR5(dedupe=False)(example({}), eleven) == pytest.approx(-0.2)  # 1 - 6/5
    assert MMR5()(example({}), eleven) == pytest.approx(0.2)  # one different one: 1 - 4/5


def test_pooled_ranks_by_hand():
    # A (8, 7), B (7, 5), C (3, 9): 9 is first, 8 second, both 7 third, then 5, then 3
    assert pooled_ranks([8, 7, 7, 5, 3, 9]) == [2, 3, 3, 5, 6, 1]
    assert pooled_ranks([8, None, 8]) == [1, None, 1]


def graded(*scores):
    """Two rollouts each of a, b and c."""
    return [answer(GRADED, str(score), docid) for docid, score in zip("aabbcc", scores, strict=True)]


def test_pooled_reciprocal_rank_by_hand():
    ranked = PooledReciprocalRank().score_all(example({"a": 1, "c": 2}), graded(8, 7, 7, 5, 3, 9))
    assert ranked == [1 / 2, 1 / 3, 0.0, 0.0, 1 / 6, 1.0]


def test_erank_by_hand():
    # relevant a on the ranks 2 and 3. b: 7 ties with rank 3 and is not below, 5 is below: -((5 - 4)/10)^2.
    # c: 3 is below: -((3 - 6)/10)^2; 9 is above
    labelled = example({"a": 1}, scores={"b": 4.0, "c": 6.0})
    values = ERank().score_all(labelled, graded(8, 7, 7, 5, 3, 9))
    assert values == pytest.approx([1 / 2, 1 / 3, -1.0, -0.01, -0.09, -1.0])


def test_erank_without_a_relevant_document_has_the_squared_error_left():
    values = ERank(reference=0.0).score_all(example({}), graded(8, 7, 7, 5, 3, 9))
    assert values == pytest.approx([-0.64, -0.49, -0.49, -0.25, -0.09, -0.81])


def test_erank_gives_malformed_rollouts_no_rank():
    rollouts = [answer(GRADED, "x", "b"), answer(GRADED, "5", "a"), answer(GRADED, "x", "a")]
    found = ERank().explain_all(example({"a": 1}), rollouts)
    assert [f.value for f in found] == [-1.0, 1.0, -1.0]
    assert [[case for case, value in f.parts.items() if value] for f in found] == [
        ["gate"],
        ["reciprocal_rank"],
        ["gate"],
    ]
    assert ["gate" in f.parts for f in found] == [True, False, True]
    assert [sum(f.parts.values()) for f in found] == [-1.0, 1.0, -1.0]


def test_erank_needs_a_reference_score_and_one_document_a_prompt():
    with pytest.raises(ValueError, match="qid 'q' has no reference score for the document 'b'"):
        ERank().score_all(example({"a": 1}), [answer(GRADED, "5", "a"), answer(GRADED, "1", "b")])
    with pytest.raises(ValueError, match="erank judges one document a prompt; got 2"):
        ERank().score_all(example({"a": 1}), [scored({"a": 1.0, "b": 0.0})])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MultiView(tags=0.5), "tags <= answer <= ids; got 0.5, 0.0, 0.0"),
        (lambda: GroupRank(answer=0.0), "tags <= answer <= ids; got -0.5, 0.0, -0.1"),
        (lambda: ERank(malformed=0.0), "saying nothing is better than a wrong score"),
    ],
)
def test_a_ladder_that_falls_is_refused_when_it_is_built(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("reward", [MultiView(p=0.9), GroupRank(), RankR1(), ERank(), ProRank(form=0.5), MMR5()])
def test_compositions_survive_pickling(reward):
    assert pickle.loads(pickle.dumps(reward)) == reward
