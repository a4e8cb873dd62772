import pytest

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
