import random
from collections import Counter

import pytest

from rl_rerank.engines.oracle import Oracle
from rl_rerank.engines.scripted import Scripted
from rl_rerank.paradigms.setwise import Setwise
from rl_rerank.ranking.driver import rerank
from rl_rerank.types import Candidate, Completion, RankingExample


def example(grades, qid="q", query="query"):
    """Documents d1.. in this order, with these grades."""
    candidates = tuple(Candidate(f"d{i}", f"grade {g}") for i, g in enumerate(grades, start=1))
    return RankingExample(qid, query, candidates, {f"d{i}": g for i, g in enumerate(grades, start=1)})


def text(prompt):
    return "".join(segment.text for message in prompt.messages for segment in message.segments)


@pytest.mark.parametrize("method", ["heapsort", "bubblesort"])
@pytest.mark.parametrize("mode", ["generation", "scoring"])
def test_the_top_is_settled_and_the_rest_stays_as_shown(method, mode):
    ex = example([3, 0, 5, 1, 6, 2, 4])
    paradigm = Setwise(method, mode=mode, children=2, k=3)
    [ranking], rollouts = rerank([ex], paradigm, Oracle([ex], paradigm.target))
    # grades 6, 5, 4, and then 3, 0, 1, 2 in the order of the list
    assert ranking.docids == ("d5", "d3", "d7", "d1", "d2", "d4", "d6")
    assert max(len(rollout.prompt.docids) for rollout in rollouts) == 3
    assert (ranking.num_prompts, ranking.num_ties) == (len(rollouts), 0)


def test_labels_are_letters_or_numbers_as_in_rank_r1():
    ex = example([0, 1])
    assert text(Setwise().prompt(ex, ex.docids)) == (
        "Choose the passage that is most relevant to the query.Query: query\n[A] grade 0\n[B] grade 1\n"
        "Answer with the letter of the most relevant passage, like B."
    )
    rank_r1 = Setwise(labels="numbers", reasoning=True)
    prompt = rank_r1.prompt(ex, ex.docids)
    assert text(prompt).endswith(
        "[1] grade 0\n[2] grade 1\nThink in <think></think>, then answer in <answer></answer>. "
        "Answer with the number of the most relevant passage, like [2]."
    )
    target = rank_r1.target(ex, prompt)
    assert target.endswith("</think><answer>[2]</answer>") and len(target) < rank_r1.max_completion_tokens
    assert dict(rank_r1.parse(prompt, Completion(target), strict=True).scores) == {"d1": 0.0, "d2": 1.0}


def test_continuations_are_the_labels_of_a_whole_set():
    assert Setwise(mode="scoring", children=2).continuations == ("A", "B", "C")
    assert Setwise(mode="scoring", children=2, labels="numbers").continuations == ("[1]", "[2]", "[3]")
    assert Setwise(children=2).continuations == ()


def test_a_set_is_shown_in_a_shuffled_order_that_depends_on_the_query_alone():
    shown = []
    for qid in ("a", "b"):
        ex = example(range(8), qid=qid)
        _, rollouts = rerank([ex], Setwise(children=7), Oracle([ex], Setwise().target))
        shown.append([rollout.prompt.docids for rollout in rollouts])
    assert shown[0] == shown[1]
    assert shown[0][0] != ex.docids and sorted(shown[0][0]) == sorted(ex.docids)
    other = example(range(8), query="another query")
    _, rollouts = rerank([other], Setwise(children=7), Oracle([other], Setwise().target))
    assert rollouts[0].prompt.docids != shown[0][0]


def test_the_best_is_what_most_permutations_say():
    # The truth half of the time, otherwise whatever is shown first: 7 or 8 votes and more for d4, 2 for each other.
    ex = example([0, 0, 0, 1])

    def answer(prompt):
        says_first = random.Random(str(prompt.docids)).random() < 0.5
        return "A" if says_first else Setwise().target(ex, prompt)

    paradigm = Setwise(children=3, k=1, permutations=15)
    [ranking], rollouts = rerank([ex], paradigm, engine := Scripted(answer))
    votes = Counter(docid for r in rollouts for docid, score in r.judgment.scores.items() if score)
    assert engine.batch_sizes == [15] and ranking.num_prompts == 15
    assert ranking.docids[0] == votes.most_common(1)[0][0] == "d4"
    assert votes["d4"] < 15


def test_equal_votes_go_to_the_document_that_was_shown_earlier():
    named = iter(["d3", "d2"])
    engine = Scripted(lambda p: "ABCD"[p.docids.index(next(named))])
    [ranking], _ = rerank([example([0, 0, 0, 0])], Setwise(children=3, k=1, permutations=2), engine)
    assert ranking.docids == ("d2", "d1", "d3", "d4")


@pytest.mark.parametrize("method", ["heapsort", "bubblesort"])
def test_where_no_answer_can_be_used_the_shown_order_stays(method):
    ex = example([0, 1, 2, 3, 1, 2, 0, 1, 2, 3])
    paradigm = Setwise(method, children=2)
    [ranking], rollouts = rerank([ex], paradigm, Scripted(lambda p: "no idea"), shuffle_seed=4)
    shuffled = list(ex.docids)
    random.Random("4:q").shuffle(shuffled)
    assert list(ranking.docids) == shuffled
    assert ranking.num_malformed == ranking.num_fallbacks == len(rollouts) > 0


def test_bubblesort_asks_about_a_set_once():
    # sorted already, windows of two: the first pass asks n - 1 = 7 pairs, later passes meet the same ones
    ex = example(range(8, 0, -1))
    paradigm = Setwise("bubblesort", children=1, k=8)
    [ranking], rollouts = rerank([ex], paradigm, Oracle([ex], paradigm.target))
    assert ranking.docids == ex.docids and len(rollouts) == 7


def test_a_training_set_has_one_right_answer_at_any_place():
    ex = example([0, 2, 2, 1, -1, 0])
    paradigm = Setwise(children=2)
    places: Counter[int] = Counter()
    for seed in range(900):
        [prompt] = paradigm.prompts(ex, random.Random(seed))
        grades = [max(ex.qrels[docid], 0) for docid in prompt.docids]
        assert len(grades) == 3 and grades.count(max(grades)) == 1
        assert paradigm.target(ex, prompt) == "ABC"[grades.index(max(grades))]
        places[grades.index(max(grades))] += 1
    # a third each: 300 +- 4 * sqrt(900 * 2 / 9) = 300 +- 57
    assert all(abs(places[i] - 300) < 57 for i in range(3))
    assert paradigm.prompts(example([0, 0, -1]), random.Random(0)) == []
    assert paradigm.prompts(example([1, 1]), random.Random(0)) == []


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"method": "quicksort"}, "method must be one of heapsort, bubblesort; got 'quicksort'"),
        ({"labels": "roman"}, "labels must be one of letters, numbers"),
        ({"mode": "scoring", "reasoning": True}, "leaves no room for reasoning=true"),
        ({"children": 0}, "children must be at least 1"),
        ({"children": 26}, "letters name at most 26 documents.*Use labels=numbers"),
        ({"k": 0}, "k must be at least 1"),
        ({"permutations": 0}, "permutations must be at least 1"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        Setwise(**params)


def test_with_numbers_a_set_may_be_larger_than_the_alphabet():
    assert Setwise(children=40, labels="numbers", mode="scoring").continuations[-1] == "[41]"
