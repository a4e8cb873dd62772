"""Answers as models write them when they do not keep to the form: each is read as what it says, or not at all.

Strict reading refuses every one of them that is not in the form asked for.
"""

import json
import random

import pytest

from rl_rerank.paradigms.first_token import FirstToken
from rl_rerank.paradigms.groupwise import Groupwise
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.paradigms.pairwise import Pairwise
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.paradigms.pointwise_graded import PointwiseGraded
from rl_rerank.paradigms.setwise import Setwise
from rl_rerank.types import Completion, Prompt

IN_FORM = {"[2] > [1] > [4] > [3]", "B > A > C", '{"[1]": 9, "[2]": 9, "[3]": 9}', "yes", "no"}

ORDERS = [
    # chains
    ("[2] > [1] > [4] > [3]", "2143"),
    ("2 > 1 > 4 > 3", "2143"),
    ("[2]>[1]>[4]>[3]", "2143"),
    ("[2] > [1] = [4] > [3]", "2143"),
    ("[2] > [1] >= [4] >> [3]", "2143"),
    ("[2] &gt; [1] &gt; [4] &gt; [3]", "2143"),
    ("[2] → [1] → [4] → [3]", "2143"),
    ("2 -> 1 -> 4 -> 3", "2143"),
    ("[2] \\> [1] \\> [4] \\> [3]", "2143"),
    ("$[2] \\succ [1] \\succ [4] \\succ [3]$", "2143"),
    ("**[2] > [1] > [4] > [3]**", "2143"),
    ("**[2]** > **[1]** > **[4]** > **[3]**", "2143"),
    ("```\n[2] > [1] > [4] > [3]\n```", "2143"),
    ("> [2]\n> [1]\n> [4]\n> [3]", "2143"),
    ("[2]\n>\n[1]\n>\n[4]\n>\n[3]", "2143"),
    ("\\boxed{[2] > [1] > [4] > [3]}", "2143"),
    ("[2] > [1] > [4] > [3]<|im_end|>", "2143"),
    ("(2) > (1) > (4) > (3)", "2143"),
    ("#2 > #1 > #4 > #3", "2143"),
    ("[02] > [01] > [04] > [03]", "2143"),
    ("\u30102\u3011 > \u30101\u3011 > \u30104\u3011 > \u30103\u3011", "2143"),
    ("\uff3b\uff12\uff3d > \uff3b\uff11\uff3d > \uff3b\uff14\uff3d > \uff3b\uff13\uff3d", "2143"),
    ("Passage 2 > Passage 1 > Passage 4 > Passage 3", "2143"),
    ("Passage [2] > Passage [1] > Passage [4] > Passage [3]", "2143"),
    ("[Passage 2] > [Passage 1] > [Passage 4] > [Passage 3]", "2143"),
    ("Doc2 > Doc1 > Doc4 > Doc3", "2143"),
    ("doc_2 > doc_1 > doc_4 > doc_3", "2143"),
    ("Document #2 > Document #1 > Document #4 > Document #3", "2143"),
    ("文档2 > 文档1 > 文档4 > 文档3", "2143"),
    ("Dokument 2 > Dokument 1 > Dokument 4 > Dokument 3", "2143"),
    ("Документ 2 > Документ 1 > Документ 4 > Документ 3", "2143"),
    ("[2] (9.5) > [1] (8) > [4] (3) > [3] (1)", "2143"),
    ("Passage 2 (score 8) > Passage 1 (score 3) > Passage 4 (2) > Passage 3 (1)", "2143"),
    ("The ranking is: [2] > [1] > [4] > [3]. Passage [3] is off topic.", "2143"),
    ("[2] > [1] > [4] > [3]\n\nExplanation: [1] > [2] would be wrong because...", "2143"),
    ("At first sight [1] > [3]. But [2] > [1] > [4] > [3].", "2143"),
    ("Draft: [1] > [2] > [3] > [4]\nFinal: [2] > [1] > [4] > [3]", "2143"),
    ("[2] > [1] > [4] > [3]\nI looked at [1], [2], [3], [4].", "2143"),
    ("[1], [2], [3] and [4] were given. [2] > [1] > [4] > [3]", "2143"),
    ("[2] > [1] > [4] > [3] > [2] > [1] > [4] > [3] > [2]", "2143"),
    ("[2] > [9] > [1] > [4] > [3]", "2143"),
    ("[2] > [1]", "2134"),
    ("[2] > [1] > ... > [4]", "2143"),
    ("[2] > [1] > [3-4]", "2134"),
    ("[2] > [1]. And [4] > [3].", "2143"),
    ("[2] > [1] > [4] and not [1] > [2]", "2143"),
    # chains that are none, or that contradict each other
    ("[3] < [4] < [1] < [2]", ""),
    ("3 < 4 < 1 < 2", ""),
    ("[3] &lt; [4] &lt; [1] &lt; [2]", ""),
    ("Passage 3 < Passage 4 < Passage 1 < Passage 2", ""),
    ("[3] ≺ [4] ≺ [1] ≺ [2]", ""),
    ("[3] < [4] < [1] < [2], that is [2] > [1] > [4] > [3]", "2143"),
    ("From worst to best: [3], [4], [1], [2]", ""),
    ("Least relevant first: [3] > [4] > [1] > [2]", ""),
    ("[2] > [1]. No: [1] > [2].", ""),
    # JSON
    ("[2, 1, 4, 3]", "2143"),
    ("```json\n[2, 1, 4, 3]\n```", "2143"),
    ("[[2], [1], [4], [3]]", "2143"),
    ('["[2]", "[1]", "[4]", "[3]"]', "2143"),
    ('["Passage 2", "Passage 1", "Passage 4", "Passage 3"]', "2143"),
    ('{"ranking": [2, 1, 4, 3]}', "2143"),
    ('{"reason": "[1] is short", "result": {"order": ["2", "1", "4", "3"]}}', "2143"),
    ('[{"id": 2}, {"id": 1}, {"id": 4}, {"id": 3}]', "2143"),
    ('[{"id": 1, "rank": 2}, {"id": 2, "rank": 1}, {"id": 3, "rank": 4}, {"id": 4, "rank": 3}]', "2143"),
    ('[{"id": 1, "score": 7}, {"id": 2, "score": 9}, {"id": 3, "score": 0}, {"id": 4, "score": 2}]', "2143"),
    ("[2, 1]", "2134"),
    ("First [1, 2, 3, 4], then [2, 1, 4, 3]", "2143"),
    ("[0, 1, 3, 2]", ""),
    ("[2.5, 1.5, 4, 3]", ""),
    ('{"relevant": [2, 1], "irrelevant": [4, 3]}', ""),
    ('{"[1]": 2, "[2]": 1, "[3]": 4, "[4]": 3}', ""),
    ('{"[1]": 7, "[2]": 9, "[3]": 0, "[4]": 2}', ""),
    ("[]", ""),
    # lists
    ("2, 1, 4, 3", "2143"),
    ("2,1,4,3", "2143"),
    ("2; 1; 4; 3", "2143"),
    ("2 1 4 3", "2143"),
    ("2\n1\n4\n3", "2143"),
    ("2, 1, 4", "2143"),
    ("2, 1", "2134"),
    ("Ranking: 2, 1, 4, 3", "2143"),
    ("My answer is:\n2, 1, 4, 3\nGood luck!", "2143"),
    ("[2] [1] [4] [3]", "2143"),
    ("[2], [1], [4] and [3]", "2143"),
    ("1. [2]\n2. [1]\n3. [4]\n4. [3]", "2143"),
    ("1) Passage 2\n2) Passage 1\n3) Passage 4\n4) Passage 3", "2143"),
    ("1. [2] 2. [1] 3. [4] 4. [3]", "2143"),
    ("Rank 1: [2]\nRank 2: [1]\nRank 3: [4]\nRank 4: [3]", "2143"),
    ("- [2]: the best\n- [1]: short\n- [4]\n- [3]: off topic", "2143"),
    ("[2]: 0.9\n[1]: 0.8\n[4]: 0.2\n[3]: 0.1", "2143"),
    ("[2]: rank 1\n[1]: rank 2\n[4]: rank 3\n[3]: rank 4", "2143"),
    ("[1]: rank 2\n[2]: rank 1\n[3]: rank 4\n[4]: rank 3", ""),
    ("[1]: 7\n[2]: 9\n[3]: 0\n[4]: 2", ""),
    ("1. 2\n2. 1\n3. 4\n4. 3", ""),  # either may be the passage
    ("1: 2, 2: 1, 3: 4, 4: 3", ""),
    ("2, 1, 9, 3", ""),
    ("2, 2, 1, 3", ""),
    ("1,000", ""),
    ("2nd, 1st, 4th, 3rd", ""),
    ("20%, 10%, 40%, 30%", ""),
    ("-2, -1, -4, -3", ""),
    ("1-4", ""),
    # prose
    ("4 passages are provided.", ""),
    ("In 2024 the top 10 won", ""),
    ("Passage 3 is off topic.", ""),
    ("None of the passages are relevant.", ""),
    ("B > A > D > C", ""),
    ("Sure: [3]", "3124"),
    ("", ""),
]

LETTERED = [
    ("B > A > C", "bac"),
    ("B>A>C", "bac"),
    ("[B] > [A] > [C]", "bac"),
    ("Passage B > Passage A > Passage C", "bac"),
    ("B, A, C", "bac"),
    ('["B", "A", "C"]', "bac"),
    ("C < A < B", ""),
    ("A glacier, a cave and C vitamins", ""),
    ("1 > 2 > 3", ""),
]

SCORES = [
    ("2.0", 2),
    ("8.5/10", 8.5),
    ("8/10", 8),
    ("8 / 10", 8),
    ("8 out of 10", 8),
    ("8 (The document mentions 3 markets)", 8),
    ("7 - the passage is on topic", 7),
    ("7 \u2014 on topic", 7),
    ("7 because it fits", 7),
    ("7 points", 7),
    ("8 points out of 10", 8),
    ("8\u5206", 8),
    ("\uff11\uff10", 10),
    ("8, 2 details are missing", 8),
    ("```\n7\n```", 7),
    ("7\n\n<|im_end|>", 7),
    ("[[7]]", 7),
    ("\\boxed{7}", 7),
    ("The answer is \\boxed{7}.", 7),
    ("The relevance score is 7.", 7),
    ("**Score:** 7", 7),
    ("**Relevance score:** **7**/10", 7),
    ("A perfect score: 10.", 10),
    ("Not relevant. Score: 0.", 0),
    ("Confidence 100%. Relevance: 1", 1),
    ("STATEMENT 0:\nCriteria: all fish\nScore: 10.0", 10),
    ("Score: 9 (fully answers the question, but 2 details are missing)", 9),
    ("Score (0-10): 4", 4),
    ("Score [0, 10] = 4", 4),
    ("Relevance score on a scale of 0 to 10: 4", 4),
    ("Score (out of 10): 4", 4),
    ("\u76f8\u5173\u6027\u5f97\u5206\uff1a8", 8),
    ("Bewertung: 8", 8),
    ("Оценка: 8", 8),
    ('{"score": 7}', 7),
    ('```json\n{"score": 7, "reason": "it names 3 caves"}\n```', 7),
    ('{"score": "7/10"}', 7),
    ("I rate this an 8 out of 10.", 8),
    ("Based on **3** keywords I find relevant, I'd rate this **7.5** out of 10", 7.5),
    ("First score: 3. Final score: 6", 6),
    ("11", 10),
    # another scale, a part of a number, or several
    ("80/100", None),
    ("3/5", None),
    ("Score: 85", None),
    ("Score: 7 out of 100", None),
    ("Score (0-100): 40", None),
    ("Score (1-5): 4", None),
    ("85%", None),
    ("Score: 85%", None),
    ("8,5", None),
    ("Score: 8,5", None),
    ("Score: 1,000", None),
    ("8e-1", None),
    ("Score: 8e-1", None),
    (".8", None),
    ("-1", None),
    ("Score: -3", None),
    ("6-7", None),
    ("Score: 6 - 7", None),
    ("Score: 6 or 7", None),
    ("between 6 and 7", None),
    ("8, 9", None),
    ("7, 8 or 9", None),
    ("I first gave 3/10, but now 8/10.", None),
    ("8/10/2024", None),
    ("9 out of 10 doctors recommend it", None),
    ("7th", None),
    ("4 stars", None),
    ("20 passages are provided.", None),
    ("Irrelevant text 123 Main Street.", None),
    ("a score of 0 to 10", None),
    ("seven", None),
]

MAPS = [
    ('{"[1]": 9, "[2]": 9, "[3]": 9}', (9, 9, 9)),
    ('```json\n{"[1]": 2, "[2]": 9, "[3]": 5}\n```', (2, 9, 5)),
    ('Here are my ratings:\n{"[1]": 2, "[2]": 9, "[3]": 5}\nLet me know.', (2, 9, 5)),
    ('{"[1]": 2, "[2]": 9, "[3]": 5}\n\nPassage [2] is the best because it covers 2 aspects.', (2, 9, 5)),
    ('{"[1]": 3, "[2]": 9, "[3]": 5, "summary": "[1] scores 10: a joke"}', (3, 9, 5)),
    (
        '[{"id": "[1]", "rating_score": 0.2}, {"id": "[2]", "rating_score": 1.0}, {"id": "[3]", "rating_score": 0.5}]',
        (0.2, 1, 0.5),
    ),
    ('{"ratings": [{"id": 1, "score": 2}, {"id": 2, "score": 9}, {"id": 3, "score": 5}]}', (2, 9, 5)),
    ('{"id": 1, "score": 2}\n{"id": 2, "score": 9}\n{"id": 3, "score": 5}', (2, 9, 5)),
    ('{"[1]": {"why": "7 words", "score": 2}, "[2]": {"score": 9}, "[3]": {"score": 5}}', (2, 9, 5)),
    ('{"scores": {"1": 2, "2": 9, "3": 5}}', (2, 9, 5)),
    ('{"scores": [2, 9, 5]}', (2, 9, 5)),
    ('{"1": 2, "2": 9, "3": 5}', (2, 9, 5)),
    ('{"Passage 1": 2, "Passage 2": 9, "Passage 3": 5}', (2, 9, 5)),
    ("{1: 2, 2: 9, 3: 5}", (2, 9, 5)),
    ("{'[1]': 2, '[2]': 9, '[3]': 5}", (2, 9, 5)),
    ('{"[1]": 2, "[2]": 9, "[3]": 5,}', (2, 9, 5)),
    ('{"\u30101\u3011": 3, "\u30102\u3011": 9, "\u30103\u3011": 5}', (3, 9, 5)),
    ("{\u201c[1]\u201d\uff1a3\uff0c\u201c[2]\u201d\uff1a9\uff0c\u201c[3]\u201d\uff1a5}", (3, 9, 5)),
    ('{"[1]": "8/10", "[2]": "9/10", "[3]": "2/10"}', (8, 9, 2)),
    ('{"[1]": 8.5, "[2]": 8.4, "[3]": 2}', (8.5, 8.4, 2)),
    ('{"[1]": 8e-1, "[2]": 9e-1, "[3]": 1e0}', (0.8, 0.9, 1)),
    ('{"[01]": 3, "[02]": 9, "[03]": 5}', (3, 9, 5)),
    ('{"[1]": -1, "[2]": 11, "[3]": 5}', (0, 10, 5)),
    ('{"[1]": 3, "[2]": 9, "[3]": 5, "[2]": 1}', (3, 1, 5)),
    ('Draft {"[1]": 9}. Final {"[1]": 2, "[2]": 9, "[3]": 5}', (2, 9, 5)),
    ('{"[1]": 2, "[2]": 9, "[3]": 5}, not {"[1]": 9} as before', (2, 9, 5)),
    ("[1]: 2\n[2]: 9\n[3]: 5", (2, 9, 5)),
    ("- **[1]**: 2\n- **[2]**: 9 (best)\n- **[3]**: 5", (2, 9, 5)),
    ("Passage [1] - Score: 2/10\nPassage [2] - Score: 9/10\nPassage [3] - Score: 5/10", (2, 9, 5)),
    ("| Passage | Score |\n|---|---|\n| [1] | 2 |\n| [2] | 9 |\n| [3] | 5 |", (2, 9, 5)),
    ("\u6587\u68631\uff1a2\u5206\n\u6587\u68632\uff1a9\u5206\n\u6587\u68633\uff1a5\u5206", (2, 9, 5)),
    ("1. 2\n2. 9\n3. 5", (2, 9, 5)),
    # One document has no number: it goes behind those that have one.
    ('{"[1]": 9, "[2]": "high", "[3]": 7}', (9, 6, 7)),
    ('{"[1]": null, "[2]": 9, "[3]": 5}', (4, 9, 5)),
    ('{"[1]": true, "[2]": 9, "[3]": 5}', (4, 9, 5)),
    # another scale, a part of a number, or no scores
    ('{"[1]": 80, "[2]": 90, "[3]": 20}', None),
    ('{"[1]": "80/100", "[2]": "90/100", "[3]": "20/100"}', None),
    ('{"[1]": "8,5", "[2]": "9,0", "[3]": "2"}', None),
    ('{"[1]": 8,5, "[2]": 9,0, "[3]": 2,0}', None),
    ('{"[1]": 20%, "[2]": 90%, "[3]": 50%}', None),
    ('{"[1]": .8, "[2]": .9, "[3]": .1}', None),
    ("[1]: 1,000\n[2]: 9\n[3]: 5", None),
    ("[1]: 7-8\n[2]: 9\n[3]: 5", None),
    ('{"[0]": 2, "[1]": 9, "[2]": 5}', None),
    ("1. 2\n2. 1\n3. 3", None),  # scores, or an order of the passages
    ("[2, 9, 5]", None),
    ("[2] > [1] > [3]", None),
    ("I'd rate [1] a 2 and [2] a 9, [3] gets 5.", None),
    ("Doc: 2, because it is the most relevant\nDoc: 1, Relevance: 4", None),
    ("None of the passages is relevant.", None),
    ("{}", None),
]

WORDS = [
    ("yes", 1),
    ("Yes", 1),
    (" Yes.", 1),
    ("**Yes**", 1),
    ("YES, it answers it", 1),
    ("No\n", 0),
    ("Answer: yes", 1),
    ("**Answer:** No", 0),
    ("The answer is yes.", 1),
    ('{"relevant": "no"}', 0),
    ("```\nyes\n```", None),
    ("\\boxed{yes}", 1),
    ("<think>\n\n</think>\n\nyes", 1),
    ("Answer: yes. Answer: no.", None),
    ("not relevant", None),
    ("Yesterday it rained", None),
    ("nothing", None),
    ("Answer: nobody knows", None),
    ("maybe", None),
    ("1", None),
]

CHOICES = [
    ("[B]", "b"),
    ("(B)", "b"),
    ("Option B", "b"),
    ("\u3010B\u3011", "b"),
    ("\\boxed{B}", "b"),
    ('{"answer": "B"}', "b"),
    ("答案: B", "b"),
    ("[A] or [B]", ""),
    ("A glacier cave", ""),
    ("Both", ""),
]


def read(paradigm, text, n, *, strict=False):
    docids = tuple("abcd"[:n]) if paradigm.name != "listwise" else tuple("1234"[:n])
    return paradigm.parse(Prompt("q", docids, (), paradigm.name), Completion(text), strict=strict)


def ordered(scores):
    return "".join(sorted(scores, key=lambda docid: -scores[docid]))


def check_strict(paradigm, text, n):
    judgment = read(paradigm, text, n, strict=True)
    assert judgment.is_ok == (text in IN_FORM) and bool(judgment.scores) == judgment.is_ok
    assert read(paradigm, text, n).is_ok == judgment.is_ok


@pytest.mark.parametrize(("text", "order"), ORDERS)
def test_orders(text, order):
    assert ordered(read(Listwise(), text, 4).scores) == order
    check_strict(Listwise(), text, 4)


@pytest.mark.parametrize(("text", "order"), ORDERS)
def test_orders_behind_a_thought_without_tags(text, order):
    judgment = read(Listwise(reasoning=True), f"<think>[4] > [3] > [2] > [1]?</think>\n{text}", 4)
    assert ordered(judgment.scores) == order and not judgment.is_ok
    assert not read(Listwise(reasoning=True), f"<think>x</think>{text}", 4, strict=True).scores


@pytest.mark.parametrize(("text", "order"), LETTERED)
def test_orders_of_letters(text, order):
    assert ordered(read(FirstToken(), text, 3).scores) == order
    check_strict(FirstToken(), text, 3)


@pytest.mark.parametrize("text", ["11 > 3 > 2 > 10 > 1 > 4 > 5 > 6 > 7 > 8 > 9", "11, 3, 2, 10, 1, 4, 5, 6, 7, 8, 9"])
def test_identifiers_of_two_digits(text):
    judgment = Listwise(window=11).parse(Prompt("q", tuple("abcdefghijk"), ()), Completion(text), strict=False)
    assert ordered(judgment.scores) == "kcbjadefghi"


@pytest.mark.parametrize(("text", "score"), SCORES)
def test_scores(text, score):
    assert read(PointwiseGraded(), text, 1).scores == ({} if score is None else {"a": score})
    check_strict(PointwiseGraded(), text, 1)


@pytest.mark.parametrize(("text", "scores"), MAPS)
def test_scores_of_several_documents(text, scores):
    expected = {} if scores is None else dict(zip("abc", scores, strict=True))
    assert dict(read(Groupwise(), text, 3).scores) == expected
    check_strict(Groupwise(), text, 3)


@pytest.mark.parametrize(("text", "value"), WORDS)
def test_words(text, value):
    assert dict(read(Pointwise(), text, 1).scores) == ({} if value is None else {"a": value})
    check_strict(Pointwise(), text, 1)


@pytest.mark.parametrize("paradigm", [Setwise(), Pairwise()], ids=lambda paradigm: paradigm.name)
@pytest.mark.parametrize(("text", "chosen"), CHOICES)
def test_choices(paradigm, text, chosen):
    scores = read(paradigm, text, 2).scores
    assert "".join(docid for docid in scores if scores[docid] == 1) == chosen
    check_strict(paradigm, text, 2)


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("<think>short</think>[2] > [1] > [3]", "213"),
        ("<think>short</think><answer>[2] > [1] > [3]", "213"),
        ("<think>short</think><Answer>[2] > [1] > [3]</Answer>", "213"),
        ("<think>short</think>\n<answer>[2] > [1] > [3]</answer><|im_end|>", "213"),
        ("<reasoning>short</reasoning><answer>[2] > [1] > [3]</answer>", "213"),
        (
            "<|channel|>analysis<|message|>short<|end|><|start|>assistant<|channel|>final<|message|>[2] > [1] > [3]",
            "213",
        ),
        ("<think>short</think><answer>Final answer: [2] > [1] > [3]</answer>", "213"),
        ("<think>[1] > [2] > [3]</think>2, 1, 3", "213"),
        ("<think>I think [2] > [1] > [3] is right. <answer>[2] > [1] > [3]</answer>", ""),
        ("I think that [2] > [1] > [3]", ""),
        ("<think>short</think><answer>None</answer>", ""),
    ],
)
def test_answers_behind_thoughts(text, order):
    judgment = read(Listwise(reasoning=True), text, 3)
    assert ordered(judgment.scores) == order and not judgment.is_ok
    assert not read(Listwise(reasoning=True), text, 3, strict=True).scores


STYLES = {
    "chain": lambda ids: " > ".join(f"[{i}]" for i in ids),
    "tight": lambda ids: ">".join(f"[{i}]" for i in ids),
    "bare": lambda ids: " > ".join(map(str, ids)),
    "words": lambda ids: " > ".join(f"Passage {i}" for i in ids),
    "arrows": lambda ids: " → ".join(f"[{i}]" for i in ids),
    "quote": lambda ids: "\n".join(f"> [{i}]" for i in ids),
    "commas": lambda ids: ", ".join(map(str, ids)),
    "brackets": lambda ids: " ".join(f"[{i}]" for i in ids),
    "JSON": lambda ids: json.dumps({"ranking": ids}),
    "objects": lambda ids: json.dumps([{"id": i, "why": "2 words"} for i in ids]),
    "numbered": lambda ids: "\n".join(f"{place}. [{i}] - it is no. {place}" for place, i in enumerate(ids, 1)),
    "bold": lambda ids: " > ".join(f"**[{i}]**" for i in ids),
}
AROUND = ["{}", "```\n{}\n```", "Here is my ranking:\n{}\nI hope it helps.", "{}<|im_end|>", "  {}\n\n"]


@pytest.mark.parametrize("style", STYLES)
def test_any_whole_order_is_read_in_every_style_behind_any_draft(style):
    rng = random.Random(style)
    for _ in range(60):
        n = rng.randint(3, 25)
        ids, draft = rng.sample(range(1, n + 1), n), rng.sample(range(1, n + 1), n)
        prompt = Prompt("q", tuple(map(str, range(1, n + 1))), ())
        text = rng.choice(AROUND).replace("{}", STYLES[style](ids))
        for written in (text, f"<think>{STYLES['chain'](draft)}</think>{text}"):
            judgment = Listwise(window=25).parse(prompt, Completion(written), strict=False)
            assert [int(d) for d in sorted(judgment.scores, key=lambda d: -judgment.scores[d])] == ids, written


@pytest.mark.parametrize("join", [" < ", "<", " &lt; ", " ≺ ", " ← "])
def test_no_order_that_is_written_worst_first_is_read(join):
    for n in range(2, 12):
        prompt = Prompt("q", tuple(map(str, range(1, n + 1))), ())
        for one in ("[{}]", "{}", "Passage {}"):
            text = join.join(one.format(i) for i in range(n, 0, -1))
            assert not Listwise(window=25).parse(prompt, Completion(text), strict=False).scores


def test_a_number_that_was_cut_is_not_read():
    # Whatever stands behind 1, 2 and 1 may have been lost: a 12 or a 10.
    chain = Completion("2 > 3 > 1", finish_reason="length")
    assert Listwise().parse(Prompt("q", ("a", "b", "c", "d"), ()), chain, strict=False).ids == (2, 3)
    scores = Completion('{"[1]": 3, "[2]": 7, "[3]": 1', finish_reason="length")
    assert Groupwise().parse(Prompt("q", ("a", "b", "c"), ()), scores, strict=False).ids == (1, 2)
    untagged = Completion("<think>x</think>[2] > [1", finish_reason="length")
    assert not Listwise(reasoning=True).parse(Prompt("q", ("a", "b"), ()), untagged, strict=False).scores
