"""What every malformed completion earns under the six published rewards: a table a system."""

import pytest
from support.rollouts import GRADED, GROUPWISE, LISTWISE, POINTWISE, SETWISE, answer, example, said, thought

from rl_rerank_rewards.erank import ERank
from rl_rerank_rewards.grouprank import GroupRank
from rl_rerank_rewards.mm_r5 import MMR5
from rl_rerank_rewards.multiview import MultiView
from rl_rerank_rewards.prorank import ProRank
from rl_rerank_rewards.rank_r1 import RankR1

SCORES = {"a": 0.0, "b": 10.0, "c": 0.0, "d": 10.0, "e": 0.0}
EXAMPLE = example({"b": 1, "d": 1}, order=tuple("bdace"), scores=SCORES)


def forms(gold, unreadable):
    """The cases that do not depend on identifiers."""
    return {
        "valid": thought(gold),
        "no tags": gold,
        "no answer block": f"<think>so</think>{gold}",
        "unreadable": thought(unreadable),
        "two answers": thought(gold) + f"<answer>{gold}</answer>",
        "text after": thought(gold) + " That is all.",
        "truncated": thought(gold)[:-12],
    }


def read(paradigm, text, case, docids="abcde"):
    return said(paradigm, text, docids, finish_reason="length" if case == "truncated" else "stop")


LISTS = forms("[2] > [4] > [1] > [3] > [5]", "2, 4, 1, 3, 5") | {
    "duplicate": thought("[2] > [4] > [1] > [3] > [3]"),
    "missing": thought("[2] > [4] > [1] > [3]"),
    "id 0": thought("[2] > [4] > [1] > [3] > [0]"),
    "id n+1": thought("[2] > [4] > [1] > [3] > [6]"),
}
# The valid answer is the gold one: nDCG 1 + .2 * recall@10 1 + .1 * average overlap 1
REASONRANK = {
    "valid": 1.3,
    "no tags": -1,
    "no answer block": -1,
    "unreadable": 0,
    "duplicate": 0,
    "missing": 0,
    "id 0": 0,
    "id n+1": 0,
    "two answers": 0,
    "text after": 1.3,
    "truncated": -1,
}


@pytest.mark.parametrize("case", REASONRANK)
def test_reasonrank(case):
    assert MultiView()(EXAMPLE, read(LISTWISE, LISTS[case], case)) == pytest.approx(REASONRANK[case])


def test_reasonrank_as_published_takes_id_0_for_the_last_document_and_leaves_out_what_is_too_high():
    published = MultiView(check_range=False)
    # 0 is e, so this is the gold order again; with 6 the one that is not named, e, stands last: the same
    assert published(EXAMPLE, said(LISTWISE, LISTS["id 0"])) == pytest.approx(1.3)
    assert published(EXAMPLE, said(LISTWISE, LISTS["id n+1"])) == pytest.approx(1.3)
    # 0 first is e b d a c: nDCG (1/log2(3) + 1/log2(4)) / (1 + 1/log2(3)) = .69343, recall@10 1, overlaps with
    # b d a c e of 0, 1/2, 2/3, 3/4 and 1, whose mean is .58333
    first = answer(LISTWISE, "[0] > [2] > [4] > [1] > [3]")
    assert published(EXAMPLE, first) == pytest.approx(0.69343 + 0.2 + 0.058333, abs=1e-5)
    for case in ("duplicate", "missing"):
        assert published(EXAMPLE, said(LISTWISE, LISTS[case])) == 0


GROUPS = forms('{"[1]": 0, "[2]": 10, "[3]": 0, "[4]": 10, "[5]": 0}', '{"[1]": 0, "[2]": 10') | {
    "duplicate": thought('{"[1]": 0, "[2]": 10, "[3]": 0, "[4]": 10, "[5]": 0, "[5]": 0}'),
    "missing": thought('{"[1]": 0, "[2]": 10, "[3]": 0, "[4]": 10}'),
    "id 0": thought('{"[0]": 0, "[2]": 10, "[3]": 0, "[4]": 10, "[5]": 0}'),
    "id n+1": thought('{"[6]": 0, "[2]": 10, "[3]": 0, "[4]": 10, "[5]": 0}'),
}
# The gold scores: nDCG 1 + .2 * recall@10 1 + .1 * (1 - JS 0)
GROUPRANK = {
    "valid": 1.3,
    "no tags": -0.5,
    "no answer block": -0.5,
    "unreadable": -0.1,
    "duplicate": -0.1,
    "missing": -0.1,
    "id 0": -0.1,
    "id n+1": -0.1,
    "two answers": -0.1,
    "text after": -0.5,
    "truncated": -0.5,
}


@pytest.mark.parametrize("case", GROUPRANK)
def test_grouprank(case):
    assert GroupRank()(EXAMPLE, read(GROUPWISE, GROUPS[case], case)) == pytest.approx(GROUPRANK[case])


LABELS = forms("[2]", "3") | {"id 0": thought("[0]"), "id n+1": thought("[6]"), "a dot": thought("[2].")}
RANK_R1 = {
    "valid": 1,
    "no tags": 0,
    "no answer block": 0,
    "unreadable": 0,
    "id 0": 0,
    "id n+1": 0,
    "a dot": 0,
    "two answers": 0,
    "text after": 1,
    "truncated": 0,
}


@pytest.mark.parametrize("case", RANK_R1)
def test_rank_r1(case):
    assert RankR1()(EXAMPLE, read(SETWISE, LABELS[case], case)) == RANK_R1[case]


def test_rank_r1_pays_nothing_for_the_wrong_label():
    assert RankR1()(EXAMPLE, answer(SETWISE, "[1]")) == 0
    assert RankR1()(EXAMPLE, said(SETWISE, thought("[1]") + " That is all.")) == 0


def test_rank_r1_as_published_takes_the_first_of_two_answers():
    published = RankR1(first_block=True)
    assert published(EXAMPLE, said(SETWISE, thought("[2]") + thought("[1]"))) == 1
    assert published(EXAMPLE, said(SETWISE, thought("[1]") + thought("[2]"))) == 0
    assert RankR1()(EXAMPLE, said(SETWISE, thought("[2]") + thought("[1]"))) == 0


POINTS = forms("10", "ten") | {"score 11": thought("11")}
ERANK = {
    "valid": 1,  # the only rollout of a relevant document is on rank 1
    "no tags": -1,
    "no answer block": -1,
    "unreadable": -1,
    "score 11": -1,
    "two answers": -1,
    "text after": -1,
    "truncated": -1,
}


@pytest.mark.parametrize("case", ERANK)
def test_erank(case):
    rollouts = [read(GRADED, POINTS[case], case, "b"), answer(GRADED, "0", "a")]
    # the other one is irrelevant, below it (or below nothing), and scored as its reference
    assert ERank().score_all(EXAMPLE, rollouts) == [ERANK[case], 0]


def test_erank_takes_a_score_of_0_and_can_ignore_text_after_the_answer():
    zeros = [answer(GRADED, "0", "b"), answer(GRADED, "0", "a")]
    assert ERank().score_all(EXAMPLE, zeros) == [1, -1]  # both on rank 1: the irrelevant one is not below
    after = [said(GRADED, POINTS["text after"], "b")]
    assert ERank(search=True).score_all(EXAMPLE, after) == [1]


PRORANK = {"1": 2, "0": 1, "2": 0, "relevant": 0, "1 because": 0, "": 0, "01": 0, "<answer>1</answer>": 0}


@pytest.mark.parametrize("text", PRORANK)
def test_prorank(text):
    # form 1 + correct 1; a wrong answer in the asked form earns the form alone
    assert ProRank()(EXAMPLE, said(POINTWISE, text, "b")) == PRORANK[text]


def test_prorank_truncated():
    assert ProRank()(EXAMPLE, said(POINTWISE, "1", "b", finish_reason="length")) == 0


# Results are all 1: the relevant ones stand on the ranks 1 and 2. Formats are length x range.
MM_R5 = {
    "valid": 1 + 1,
    "no tags": 0,
    "no answer block": 0,
    "unreadable": 0,
    "duplicate": 1 + 4 / 5,  # four different ones
    "missing": 1 + 4 / 5,
    "id 0": 1 + 4 / 5,  # length 1, range 4/5
    "id n+1": 1 + 4 / 5,
    "two answers": 0,
    "text after": 0,
    "truncated": 0,
}


@pytest.mark.parametrize("case", MM_R5)
def test_mm_r5(case):
    assert MMR5()(EXAMPLE, read(LISTWISE, LISTS[case], case)) == pytest.approx(MM_R5[case])


def test_mm_r5_as_published_pays_the_length_of_repeated_identifiers():
    assert MMR5(dedupe=False)(EXAMPLE, said(LISTWISE, LISTS["duplicate"])) == pytest.approx(2)
    assert MMR5(search=True)(EXAMPLE, said(LISTWISE, LISTS["text after"])) == pytest.approx(2)
