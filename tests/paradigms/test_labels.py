import random

import pytest

from rl_rerank.paradigms import labels as reading
from rl_rerank.paradigms.labels import LETTERS, NUMBERS, choice, order
from rl_rerank.types import Completion, Prompt

PROMPT = Prompt("q", ("a", "b", "c"), ())


def best(judgment):
    return "".join(docid for docid, score in judgment.scores.items() if score == 1.0)


@pytest.mark.parametrize(
    ("text", "strict", "lenient", "chosen"),
    [
        ("B", "ok", "ok", "b"),
        (" B\n", "ok", "ok", "b"),
        ("b", "answer", "repaired", "b"),
        ("[B]", "answer", "repaired", "b"),
        ("**B**.", "answer", "repaired", "b"),
        ("Passage B", "answer", "repaired", "b"),
        ("The answer is B, because it says so.", "answer", "repaired", "b"),
        ("[B] is about caves", "answer", "repaired", "b"),
        ("Passage B. Passage B!", "answer", "repaired", "b"),
        ("A glacier cave", "answer", "answer", ""),  # an article is no label
        ("Passage a was chosen by the author", "answer", "answer", ""),
        ("[A] or [B]", "answer", "answer", ""),
        ("B > A", "answer", "answer", ""),
        ("D", "ids", "answer", ""),
        ("[Z] or [C]", "answer", "repaired", "c"),
        ("\u212a", "answer", "answer", ""),  # the Kelvin sign is no K
        ("2", "answer", "answer", ""),
        ("", "answer", "answer", ""),
    ],
)
def test_a_chosen_letter(text, strict, lenient, chosen):
    assert choice(PROMPT, Completion(text), LETTERS, reasoning=False, strict=True).status == strict
    judgment = choice(PROMPT, Completion(text), LETTERS, reasoning=False, strict=False)
    assert (judgment.status, best(judgment)) == (lenient, chosen)


@pytest.mark.parametrize(
    ("text", "strict", "lenient", "chosen"),
    [
        ("[2]", "ok", "ok", "b"),
        ("2", "answer", "repaired", "b"),
        ("[02]", "answer", "repaired", "b"),
        ("[2].", "answer", "repaired", "b"),
        ("Document 2 it is", "answer", "repaired", "b"),
        ("passage [3]", "answer", "repaired", "c"),
        ("In 2024 the top 10 won", "answer", "answer", ""),
        ("[0]", "ids", "answer", ""),
        ("[4]", "ids", "answer", ""),
        ("[2] > [1]", "answer", "answer", ""),
        ("[" + "9" * 5000 + "]", "answer", "answer", ""),
    ],
)
def test_a_chosen_number(text, strict, lenient, chosen):
    assert choice(PROMPT, Completion(text), NUMBERS, reasoning=False, strict=True).status == strict
    judgment = choice(PROMPT, Completion(text), NUMBERS, reasoning=False, strict=False)
    assert (judgment.status, best(judgment)) == (lenient, chosen)


def test_an_answer_as_rank_r1_gives_it():
    text = "<think>The third one answers it.</think><answer>[3]</answer>"
    judgment = choice(PROMPT, Completion(text), NUMBERS, reasoning=True, strict=True)
    assert judgment.is_ok and judgment.ids == (3,)
    assert dict(judgment.scores) == {"a": 0.0, "b": 0.0, "c": 1.0}
    assert choice(PROMPT, Completion("[3]"), NUMBERS, reasoning=True, strict=True).status == "tags"


def test_scored_labels_become_probabilities_of_the_documents_that_are_shown():
    # 2 : 1 : 1 among the three documents; the letter D is shown to nobody, however likely it is
    logprobs = {"A": -2.0, "B": -2.0 - 0.6931471805599453, "C": -2.0 - 0.6931471805599453, "D": -0.1}
    completion = Completion("", finish_reason="score", continuations=logprobs)
    judgment = choice(PROMPT, completion, LETTERS, reasoning=False, strict=True)
    assert judgment.is_ok and dict(judgment.scores) == pytest.approx({"a": 0.5, "b": 0.25, "c": 0.25})


def test_very_unlikely_labels_still_have_an_order():
    completion = Completion("", finish_reason="score", continuations={"A": -5000.0, "B": -4000.0, "C": -4500.0})
    scores = choice(PROMPT, completion, LETTERS, reasoning=False, strict=True).scores
    assert max(scores, key=scores.__getitem__) == "b" and sum(scores.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("text", "strict", "lenient", "ranked"),
    [
        ("B > A > C", "ok", "ok", "bac"),
        ("B>A>C", "answer", "repaired", "bac"),
        ("[B] > [A] > [C]", "answer", "repaired", "bac"),
        ("Sure: C > A > B.", "answer", "repaired", "cab"),
        ("B", "ids", "repaired", "bac"),
        ("B > B > A > C", "ids", "repaired", "bac"),
        ("D > C > B > A", "ids", "repaired", "cba"),
        ("A glacier cave", "answer", "answer", ""),
        ("Z > Y", "ids", "answer", ""),
        ("", "answer", "answer", ""),
    ],
)
def test_an_order_of_letters(text, strict, lenient, ranked):
    assert order(PROMPT, Completion(text), LETTERS, reasoning=False, strict=True).status == strict
    judgment = order(PROMPT, Completion(text), LETTERS, reasoning=False, strict=False)
    assert judgment.status == lenient
    assert "".join(sorted(judgment.scores, key=lambda d: -judgment.scores[d])) == ranked


def test_issues_name_letters_as_they_were_written():
    issues = order(PROMPT, Completion("B > B > D"), LETTERS, reasoning=False, strict=True).issues
    assert [(issue.kind, issue.place) for issue in issues] == [
        ("id_out_of_range", "D"),
        ("repeated_id", "B"),
        ("missing_id", "A"),
        ("missing_id", "C"),
    ]


def test_there_are_26_letters():
    assert LETTERS.answers(26)[-1] == "Z"
    with pytest.raises(ValueError, match="letters name at most 26 documents"):
        LETTERS.answers(27)


def written(rng, labels, n):
    """A completion that is well formed or has one fault or several, around the answer or in it."""
    ids = rng.sample(range(1, n + 1), n)
    if rng.random() < 0.4:
        ids[rng.randrange(n)] = rng.choice((0, 1, n, n + 1)) if labels is NUMBERS else rng.randint(1, 26)
    if rng.random() < 0.2:
        ids = ids[:-1] or ids
    text = rng.choice((" > ", " > ", " > ", " >", ", ", " > > ")).join(labels.answer(i) for i in ids)
    text = rng.choice(("{}", "{}", "{}", " {}\n", "{}.", "{}</answer><answer>{}", "<answer>{}")).format(text, text)
    text = rng.choice(("<answer>{}</answer>",) * 4 + ("{}", "<answer>{}", "a<answer>{}</answer>b")).format(text)
    text = rng.choice(("<think>so</think>{}",) * 4 + ("{}", "</think>{}</think>", "so</think> {}\n")).format(text)
    return Completion(text, finish_reason=rng.choice(("stop", "stop", "stop", "length")))


@pytest.mark.parametrize("reasoning", [True, False])
@pytest.mark.parametrize("labels", [LETTERS, NUMBERS], ids=["letters", "numbers"])
def test_the_quick_way_to_an_order_reads_what_the_careful_one_reads(monkeypatch, labels, reasoning):
    rng = random.Random(0)
    asked = [(written(rng, labels, n), n) for n in (1, 2, 3, 20) for _ in range(250)]
    how = [{"strict": s, "complete": c, "reasoning": reasoning} for s in (True, False) for c in (True, False)]

    def read():
        prompts = {n: Prompt("q", tuple(f"d{i}" for i in range(n)), ()) for _, n in asked}
        found = [order(prompts[n], completion, labels, **kind) for completion, n in asked for kind in how]
        return [(judgment, list(judgment.scores)) for judgment in found]

    quick = read()
    monkeypatch.setattr(reading, "clean_answer", lambda completion, reasoning, tags: None)
    assert quick == read()
    assert {judgment.status.value for judgment, _ in quick} >= {"ok", "repaired", "ids", "answer"}
