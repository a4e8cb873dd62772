"""Filters: what is dropped, and that it is counted."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
from support.synth_runs import apply, example, stage

from rl_rerank.engines.scripted import Scripted
from rl_rerank.types import Candidate, RankingExample, TeacherOutput

GRADES = {"a": 0, "b": 2, "c": 1}


def said(text: str, docids: str = "abc", paradigm: str = "listwise") -> TeacherOutput:
    return TeacherOutput("model", paradigm, tuple(docids), text)


def test_only_answers_in_the_asked_form_are_kept():
    answers = [
        said("[2] > [3] > [1]"),
        said("[2] > [2] > [1]"),
        said("The best is [2]."),
        said("yes", "b", "pointwise"),
    ]
    given = [example("q1", GRADES, teachers=tuple(answers)), example("q2", GRADES, teachers=(answers[1],))]
    made, counts = apply(given, "well_formed")
    assert [e.teachers for e in made] == [(answers[0], answers[3])]
    assert counts == {"answers": 2, "malformed": 3}
    made, _ = apply(given, "well_formed", paradigm="pointwise")
    assert [e.teachers for e in made] == [tuple(answers)]


def test_self_consistency_is_ndcg_of_the_gold_order():
    # Grades 2, 1, 0: ideal 2 + 1 / log2(3) = 2.6309; a, c, b gains 1 / log2(3) + 2 / log2(4) = 1.6309, that is .6199.
    given = [
        example("good", GRADES, order=tuple("bca")),
        example("bad", GRADES, order=tuple("acb")),
        example("flat", {"a": 1, "b": 1}, order=tuple("ab")),
    ]
    made, counts = apply(given, "consistency", min_ndcg=0.62)
    assert [e.qid for e in made] == ["good"] and made[0].provenance["consistency"] == "nDCG@10 1.0000"
    assert counts == {"inconsistent": 1, "one_grade": 1}
    made, _ = apply(given, "consistency", min_ndcg=0.61)
    assert [e.provenance["consistency"] for e in made] == ["nDCG@10 1.0000", "nDCG@10 0.6199"]
    with pytest.raises(LookupError, match="'bare' has no gold order"):
        apply([example("bare", GRADES)], "consistency")


def test_single_answers_are_judged_by_the_documents_of_their_prompt():
    answers = [
        said("[2] > [3] > [1]"),
        said("[1] > [3] > [2]"),
        said("yes", "b", "pointwise"),
        said("yes", "a", "pointwise"),
    ]
    [made], counts = apply([example("q", GRADES, teachers=tuple(answers))], "consistency", of="answers", min_ndcg=0.7)
    assert made.teachers == (answers[0], answers[2])
    assert counts["inconsistent"] == 2


def test_what_is_too_easy_or_too_hard_goes():
    good, bad = "[{b}] > [{c}] > [{a}]", "[{a}] > [{c}] > [{b}]"
    turn = {"sometimes": 0}

    def answer(prompt):
        places = {docid: place for place, docid in enumerate(prompt.docids, start=1)}
        if prompt.qid == "sometimes":
            turn["sometimes"] += 1
            return (good if turn["sometimes"] % 2 else bad).format(**places)
        return {"easy": good, "hard": bad, "broken": "no idea"}[prompt.qid].format(**places)

    given = [example(qid, GRADES) for qid in ("easy", "sometimes", "hard", "broken")]
    flat = example("flat", {"a": 1, "b": 1})
    made, counts = apply(
        [*given, flat], "pass_rate", engine=Scripted(answer), synth_stage=stage(teacher="model"), samples=4
    )
    assert [(e.qid, e.provenance["pass_rate"]) for e in made] == [("sometimes", "0.5000")]
    assert counts == {"too_easy": 1, "too_hard": 2, "without_prompt": 1}


def test_lengths_are_bounded_in_words():
    candidates = (Candidate("a", "one two three four"), Candidate("b", "one"), Candidate("c", " "))
    given = RankingExample(
        "q", "a query", candidates, {"a": 1}, order=tuple("abc"), scores={"a": 2.0, "b": 1.0, "c": 0.0}
    )
    [made], counts = apply([given], "length")
    assert (made.docids, made.order, made.scores) == (("a", "b"), ("a", "b"), {"a": 2.0, "b": 1.0})
    assert counts["documents"] == 1
    made, counts = apply(
        [given, replace(given, qid="r", query="a longer query here")], "length", max_document=3, max_query=3
    )
    assert made == [] and (counts["one_grade"], counts["queries"]) == (1, 1)
    answered = replace(given, teachers=(said("a b c", "ab"), said("a", "ab")))
    [made], _ = apply([answered], "length", max_answer=2)
    assert made.teachers == (said("a", "ab"),)
    assert apply([replace(answered, teachers=(said("a b c", "ab"),))], "length", max_answer=2)[1]["without_answer"] == 1


def test_copies_of_documents_and_queries_go_and_the_best_one_stays():
    text = "a glacier cave is a cave that is formed within the ice of a glacier somewhere in the mountains"
    near = text.replace("somewhere", "anywhere")
    shown = (Candidate("a", "x " + text), Candidate("b", "x " + text), Candidate("c", "quite another text"))
    [made], counts = apply([RankingExample("q", "query", shown, {"b": 1})], "near_documents")
    assert made.docids == ("b", "c") and counts["documents"] == 1
    long = " ".join(f"word{n}" for n in range(60))
    queries = ["How are caves formed?", "how are  caves formed", long, f"{long} more", "something else", near]
    given = [example(f"q{n}", GRADES, query=query) for n, query in enumerate(queries)]
    made, counts = apply(given, "near_queries")
    assert [e.qid for e in made] == ["q0", "q2", "q4", "q5"]
    assert counts == {"exact": 1, "near": 1}
    made, _ = apply(given, "near_queries", near=False)
    assert [e.qid for e in made] == ["q0", "q2", "q3", "q4", "q5"]


def test_languages_are_told_by_their_frequent_words():
    english = "the cave is in the ice and it is not the same as that of a rock with this"
    german = "die Höhle ist in dem Eis und das ist nicht dasselbe wie die in einem Fels mit der"
    given = [
        RankingExample(qid, "x", (Candidate("d", text),))
        for qid, text in [("en", english), ("de", german), ("?", "E = mc2")]
    ]
    made, counts = apply(given, "language")
    assert [e.qid for e in made] == ["en", "?"] and counts == {"in_de": 1}
    assert [e.qid for e in apply(given, "language", languages=["de"])[0]] == ["de", "?"]
    with pytest.raises(ValueError, match="'xx' is not known"):
        apply(given, "language", languages=["xx"])


QUERY = "which proteins are needed for the growth of a lens"
SENTENCE = "alpha crystallin is a chaperone that keeps the proteins of the eye lens from clumping together"


@pytest.fixture
def benchmark(tmp_path: Path) -> dict[str, str]:
    """A folder with one test query, one train query, and one document."""
    rows = [{"qid": "1", "text": QUERY, "split": "test"}, {"qid": "2", "text": "a train query", "split": "train"}]
    (tmp_path / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with gzip.open(tmp_path / "corpus.jsonl.gz", "wt") as file:
        file.write(json.dumps({"docid": "x", "text": f"Before it. {SENTENCE}. And after it."}) + "\n")
    return {"lens": str(tmp_path)}


def test_decontamination_finds_what_was_planted(benchmark):
    clean = "the bread is baked in an oven and eaten with butter on a Sunday morning in the garden"
    planted = f"We say that {SENTENCE.upper()}, and more."
    given = [
        example("exact", GRADES, query="Which proteins are needed, for the growth of a lens?"),
        example("ngram", GRADES, query=f"tell me {QUERY.removeprefix('which ')} please"),
        RankingExample(
            "passage", "q", (Candidate("a", clean), Candidate("b", planted), Candidate("c", clean)), {"a": 1}
        ),
        RankingExample("positive", "q", (Candidate("a", clean), Candidate("b", planted)), {"b": 1}),
        example("train", GRADES, query="a train query"),
    ]
    made, counts = apply(given, "decontaminate", benchmarks=benchmark)
    assert [(e.qid, e.docids) for e in made] == [("passage", ("a", "c")), ("train", tuple("abc"))]
    assert counts == {"query_exact lens": 1, "query_ngram lens": 1, "passages lens": 2, "without_positive": 1}
    made, _ = apply(given, "decontaminate", benchmarks=benchmark, passages=False, split="")
    assert [e.qid for e in made] == ["passage", "positive"]


def test_decontamination_finds_nothing_in_a_clean_set(benchmark):
    clean = [
        f"sentence {n} about number {n * n} and nothing of eyes, lenses or their many proteins at all"
        for n in range(50)
    ]
    given = [
        RankingExample(f"q{n}", f"query about {n}", (Candidate(f"d{n}", text),), {f"d{n}": 1})
        for n, text in enumerate(clean)
    ]
    made, counts = apply(given, "decontaminate", benchmarks=benchmark)
    assert made == given and not counts
    with pytest.raises(ValueError, match="must name at least one"):
        apply(given, "decontaminate")
