import random

import pytest

from rl_rerank.engines.scripted import Scripted
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.paradigms.windows import windows
from rl_rerank.prompts.constraints import Beginning
from rl_rerank.ranking.driver import rerank
from rl_rerank.types import Candidate, Completion, Prompt, RankingExample

PROMPT = Prompt("q", ("a", "b", "c"), ())


def example(relevance):
    """Documents d1.. in this order, with these grades; their text says their grade."""
    candidates = tuple(Candidate(f"d{i}", f"grade {g}") for i, g in enumerate(relevance, start=1))
    return RankingExample("q", "query", candidates, {f"d{i}": g for i, g in enumerate(relevance, start=1)})


def oracle(example):
    def answer(prompt):
        order = sorted(range(len(prompt.docids)), key=lambda i: -example.qrels[prompt.docids[i]])
        return " > ".join(f"[{i + 1}]" for i in order)

    return Scripted(answer)


@pytest.mark.parametrize(
    ("n", "window", "stride", "count"),
    [(100, 20, 10, 9), (10, 20, 10, 1), (20, 20, 10, 1), (21, 20, 10, 2), (4, 2, 1, 3), (1, 20, 10, 0), (0, 20, 10, 0)],
)
def test_number_of_windows(n, window, stride, count):
    spans = windows(n, window, stride)
    assert len(spans) == count
    if spans:
        assert spans[0][1] == n and spans[-1][0] == 0


def test_a_window_carries_the_best_passage_to_the_front():
    # grades [1 3 2 4] -> [1 3 (4 2)] -> [1 (4 3) 2] -> [(4 1) 3 2]
    ex = example([1, 3, 2, 4])
    engine = oracle(ex)
    [ranking], rollouts = rerank([ex], Listwise(window=2, stride=1), engine)
    assert ranking.docids == ("d4", "d1", "d2", "d3")
    assert engine.batch_sizes == [1, 1, 1]
    assert (ranking.num_prompts, ranking.num_malformed, ranking.num_fallbacks, len(rollouts)) == (3, 0, 0, 3)


def test_a_second_pass_slides_over_the_order_that_the_first_one_left():
    # window 2, stride 1: a pass settles one rank. grades [1 2 3 4] -> [4 1 2 3] -> [4 3 1 2] -> [4 3 2 1]
    ex = example([1, 2, 3, 4])
    for passes, order in ((1, "d4 d1 d2 d3"), (2, "d4 d3 d1 d2"), (3, "d4 d3 d2 d1")):
        engine = oracle(ex)
        [ranking], _ = rerank([ex], Listwise(window=2, stride=1, passes=passes), engine)
        assert " ".join(ranking.docids) == order
        assert (engine.batch_sizes, ranking.num_prompts) == ([1] * 3 * passes, 3 * passes)


def test_an_answer_may_end_behind_the_first_places():
    ex = example([1, 3, 2, 4, 0])
    paradigm = Listwise(window=None, constrained=True, top=2)
    engine = Scripted(lambda p: "[4] > [2]")
    engine.capabilities = frozenset({"constraint"})
    [ranking], [rollout] = rerank([ex], paradigm, engine)
    # The others follow as they were shown, and nothing is wrong with the answer.
    assert ranking.docids == ("d4", "d2", "d1", "d3", "d5")
    assert (ranking.num_malformed, ranking.num_fallbacks, rollout.judgment.ids) == (0, 0, (4, 2))
    assert rollout.prompt.constraint == Beginning(5, 2)
    # Training rows still order all documents, and rewards read them strictly.
    target = paradigm.target(ex, rollout.prompt)
    assert target == "[4] > [2] > [3] > [1] > [5]"
    assert paradigm.parse(rollout.prompt, Completion(target), strict=True).is_ok
    assert not paradigm.parse(rollout.prompt, Completion("[4] > [2]"), strict=True).is_ok
    # Fewer places than were asked for are completed, and counted.
    assert not paradigm.parse(rollout.prompt, Completion("[4]"), strict=False).is_ok
    for params in ({"top": 2}, {"top": 0, "constrained": True}):
        with pytest.raises(ValueError, match="top must be at least 1 and needs constrained=true"):
            Listwise(**params)


@pytest.mark.parametrize("n", [0, 1, 2, 30, 100])
def test_without_a_window_the_whole_list_is_one_prompt(n):
    ex = example(list(range(n)))
    [ranking], rollouts = rerank([ex], Listwise(window=None), oracle(ex))
    assert [r.prompt.docids for r in rollouts] == ([ex.docids] if n > 1 else [])
    assert ranking.docids == ex.docids[::-1]


def test_without_a_window_there_is_room_for_an_answer_about_a_hundred_documents():
    paradigm = Listwise(window=None)
    ex = example([1] + [0] * 99)
    # "[1] > " to "[9] > " take 6 characters, to "[99] > " 7, "[100]" 5: 54 + 630 + 5, and the end token
    assert paradigm.max_completion_tokens == 690 == len(paradigm.target(ex, paradigm.prompt(ex, ex.docids))) + 1
    engine = oracle(ex)
    with pytest.raises(ValueError, match=r"qid 'q': 101 documents are too many for one listwise prompt.*set.* window"):
        rerank([example([0] * 101)], paradigm, engine)
    assert engine.batch_sizes == []


def test_a_malformed_answer_keeps_the_order_that_was_shown_and_is_counted():
    ex = example([0, 0, 1, 0])
    [ranking], _ = rerank([ex], Listwise(window=4), Scripted(lambda p: "I cannot rank these."), shuffle_seed=7)
    shown = list(ex.docids)
    random.Random("7:q").shuffle(shown)
    assert list(ranking.docids) == shown != list(ex.docids)
    assert (ranking.num_malformed, ranking.num_fallbacks) == (1, 1)


@pytest.mark.parametrize(
    ("text", "strict", "lenient", "order"),
    [
        ("[2] > [1] > [3]", "ok", "ok", "bac"),
        ("  [2] > [1] > [3]\n", "ok", "ok", "bac"),
        ("[2]>[1]>[3]", "answer", "repaired", "bac"),
        ("2 > 1 > 3", "answer", "repaired", "bac"),
        ("[02] > [1] > [3]", "answer", "repaired", "bac"),
        ("[\uff12] > [1] > [3]", "answer", "repaired", "bac"),  # a full-width 2
        ("Sure: [3] > [1] > [2].", "answer", "repaired", "cab"),
        ("[2] > [1]", "ids", "repaired", "bac"),
        ("[2] > [2] > [1] > [3]", "ids", "repaired", "bac"),
        ("[0] > [1] > [2] > [3]", "ids", "repaired", "abc"),
        ("[4] > [3] > [2] > [1]", "ids", "repaired", "cba"),
        ("3 passages are provided.", "answer", "answer", ""),
        ("In 2024 the top 10 won", "answer", "answer", ""),
        ("", "answer", "answer", ""),
        ("[9] > [8]", "ids", "answer", ""),
        ("[" + "9" * 5000 + "]", "answer", "answer", ""),
    ],
)
def test_what_is_read_strictly_and_leniently(text, strict, lenient, order):
    paradigm = Listwise(window=3, stride=1)
    assert paradigm.parse(PROMPT, Completion(text), strict=True).status == strict
    judgment = paradigm.parse(PROMPT, Completion(text), strict=False)
    assert judgment.status == lenient
    assert "".join(sorted(judgment.scores, key=lambda d: -judgment.scores[d])) == order


@pytest.mark.parametrize(
    ("text", "status", "order"),
    [
        ("[2] > [1] > [3]", "ok", "bac"),
        ("2 > 1 > 3", "repaired", "bac"),  # nothing is missing, so nothing was completed
        ("[3] > [3] > [2] > [1] > [9]", "repaired", "cba"),
        ("[2] > [1]", "ids", ""),
        ("[2] > [2] > [1]", "ids", ""),
        ("Sure: [3]", "ids", ""),
        ("no idea", "answer", ""),
    ],
)
def test_without_completion_a_partial_answer_is_not_used(text, status, order):
    judgment = Listwise(window=3, stride=1, complete=False).parse(PROMPT, Completion(text), strict=False)
    assert judgment.status == status
    assert "".join(judgment.scores) == order
    assert ("missing_id" in {issue.kind for issue in judgment.issues}) == (order == "")


def test_a_completed_answer_and_one_that_is_not_used_both_count_as_malformed():
    ex = example([0, 0, 1])
    for complete, order, fallbacks in ((True, "d3 d1 d2", 0), (False, "d1 d2 d3", 1)):
        [ranking], _ = rerank([ex], Listwise(window=3, complete=complete), Scripted(lambda p: "[3]"))
        assert " ".join(ranking.docids) == order
        assert (ranking.num_malformed, ranking.num_fallbacks) == (1, fallbacks)


@pytest.mark.parametrize(
    ("text", "status", "kind"),
    [
        ("<think>x</think><answer>[2] > [1] > [3]</answer>", "ok", None),
        ("x</think>\n<answer> [2] > [1] > [3] </answer>", "ok", None),
        ("<answer>[1] > [2] > [3]</answer></think><answer>[2] > [1] > [3]</answer>", "ok", None),
        ("<think>x</think>[2] > [1] > [3]", "tags", "no_answer_block"),
        ("<think>x</think><answer>[2] > [1] > [3]", "tags", "no_answer_block"),
        ("<answer>[2] > [1] > [3]</answer>", "tags", "no_think_end"),
        ("</think><answer>[1] > [2] > [3]</answer><answer>[2] > [1] > [3]</answer>", "tags", "several_answer_blocks"),
        ("</think><answer>[1] > [2] > [3]</answer> done", "tags", "text_outside_answer"),
    ],
)
def test_with_reasoning_one_answer_block_after_the_last_think_end_counts(text, status, kind):
    judgment = Listwise(window=3, stride=1, reasoning=True).parse(PROMPT, Completion(text), strict=True)
    assert judgment.status == status
    assert kind is None or kind in {issue.kind for issue in judgment.issues}


def test_leniently_the_last_of_several_answer_blocks_wins():
    text = "</think><answer>[1] > [2] > [3]</answer><answer>[2] > [1] > [3]</answer>"
    judgment = Listwise(window=3, stride=1, reasoning=True).parse(PROMPT, Completion(text), strict=False)
    assert judgment.status == "repaired" and judgment.ids == (2, 1, 3)


def test_a_completion_that_was_cut_is_malformed_even_if_it_reads_well():
    completion = Completion("[2] > [1] > [3]", finish_reason="length")
    assert Listwise(window=3, stride=1).parse(PROMPT, completion, strict=True).status == "tags"


def test_the_target_is_read_back_as_the_gold_order():
    ex = example([0, 2, 1, 0, 1])
    for reasoning in (False, True):
        paradigm = Listwise(window=5, reasoning=reasoning)
        [prompt] = paradigm.prompts(ex, random.Random(3))
        judgment = paradigm.parse(prompt, Completion(paradigm.target(ex, prompt)), strict=True)
        assert judgment.is_ok
        assert next(iter(judgment.scores)) == "d2"


def test_a_position_only_baseline_is_at_chance_on_training_prompts():
    # one relevant document among five: its mean position over 2,000 shuffles is 3 +- 4 * sqrt(2 / 2000) = 3 +- .13
    ex = example([1, 0, 0, 0, 0])
    paradigm = Listwise(window=5)
    positions = [paradigm.prompts(ex, random.Random(seed))[0].docids.index("d1") + 1 for seed in range(2000)]
    assert abs(sum(positions) / len(positions) - 3) < 0.13


def test_examples_with_one_grade_only_give_no_training_prompt():
    assert Listwise(window=5).prompts(example([0, 0, 0]), random.Random(1)) == []
    assert Listwise(window=5).prompts(example([0, -1, 0]), random.Random(1)) == []  # below 0 gains no more than 0


def test_a_window_of_one_is_refused():
    with pytest.raises(ValueError, match="window must be at least 2"):
        Listwise(window=1)


def test_a_stride_without_a_window_and_no_pass_at_all_are_refused():
    with pytest.raises(ValueError, match="stride=5 needs a window that moves"):
        Listwise(window=None, stride=5)
    with pytest.raises(ValueError, match="passes must be at least 1; got 0"):
        Listwise(passes=0)
