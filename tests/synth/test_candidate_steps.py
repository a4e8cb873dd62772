"""Candidates: found, fused, sampled by bands, written."""

from __future__ import annotations

import importlib
import json
from collections import Counter
from dataclasses import replace

import pytest
from support.synth_runs import apply, config, example, run, stage

from rl_rerank.engines.scripted import Scripted
from rl_rerank.types import Candidate, RankingExample


def ranked(num_documents: int, relevant: set[int], qid: str = "q") -> RankingExample:
    """Documents d1, d2, ... at these ranks."""
    candidates = tuple(Candidate(f"d{n}", f"text {n}", rank=n) for n in range(1, num_documents + 1))
    return RankingExample(qid, "query", candidates, {f"d{n}": 1 for n in relevant}, split="train")


def places(found: RankingExample) -> list[int]:
    return [int(docid[1:]) for docid in found.docids]


def test_bm25_searches_the_whole_collection_and_keeps_what_is_judged(tmp_path):
    settings = config(tmp_path, 1)
    texts = {"a": "ice cave", "b": "bread oven", "c": "cave of bread", "d": "nothing of it"}
    rows = [{"docid": docid, "text": text} for docid, text in texts.items()]
    lines = [
        {
            "qid": "q1",
            "query": "ice caves",
            "split": "train",
            "candidates": rows[1:2],
            "qrels": {"d": 1, "b": 0, "x": 1},
        },
        {"qid": "q2", "query": "other", "split": "dev", "candidates": rows, "qrels": {}},
    ]
    (tmp_path / "examples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    [found] = run(settings, {"bm25": {"depth": 3}}, mixture={"pointwise": 1})
    # "cave" is in a and c, "ice" in a alone; d is judged relevant and shares no word; x is no document.
    assert found.docids == ("a", "c", "d")
    assert [c.rank for c in found.candidates] == [1, 2, None]
    first, second, third = found.candidates
    assert first.features == {"bm25_score": first.score} and third.features == {}
    assert first.score is not None and second.score is not None and first.score > second.score
    given = RankingExample("q1", "ice caves", (Candidate("b", "bread oven", rank=1, score=2.0),), {"d": 1})
    [added], _ = apply([given], "bm25", settings=settings, depth=1, add=True, relevant=False)
    assert added.docids == ("b", "a") and added.candidate("b").score == 2.0


def test_eranks_recipe_takes_one_positive_and_its_negatives_from_three_bands():
    long = ranked(1000, {3, 5, 600})
    [found], counts = apply([long, ranked(10, set(), "none")], "bands")
    negatives = [n for n in places(found) if n != 3]
    # 20 documents: d3 as the first of the highest grade; all of the ranks 1-10 that are not relevant are eight, so that
    # two more come from the next band.
    assert len(found.docids) == 20 and 3 in places(found) and not {5, 600} & set(places(found))
    assert Counter("hard" if n <= 10 else "medium" if n <= 100 else "easy" for n in negatives) == {
        "hard": 8,
        "medium": 7,
        "easy": 4,
    }
    assert places(found) == sorted(places(found))
    assert found.qrels == {"d3": 1}
    assert counts["without_positive"] == 1
    assert apply([long], "bands")[0] == [found]


def test_groupranks_recipe_looks_at_no_judgment():
    [found], _ = apply([ranked(200, {150})], "bands", positives=None, bands=[[10, 10], [200, 40]])
    assert places(found)[:10] == list(range(1, 11))
    assert len(found.docids) == 50
    [small], _ = apply([ranked(200, {2, 150})], "bands", positives=10, bands=[[20, 20]], size=20)
    assert len(small.docids) == 20 and {2, 150} < set(places(small))


def test_rank_r1s_sets_vary_in_size_with_a_probability_in_proportion_to_it():
    many = [ranked(100, {1}, f"q{i}") for i in range(900)]
    found, _ = apply(many, "bands", bands=[[100, 9]], vary=True)
    sizes = Counter(len(example.candidates) - 1 for example in found)
    assert set(sizes) == set(range(1, 10))
    # 900 queries, P(n) = n / 45: 20 of one negative and 180 of nine, with a standard deviation of 4.4 and 12
    assert 2 <= sizes[1] <= 38 and 132 <= sizes[9] <= 228
    assert all(example.qrels == {example.candidates[0].docid: 1} for example in found)


@pytest.mark.parametrize("bands", [[[10, 1], [5, 1]], [[10]], [[10, -1]]])
def test_bands_that_make_no_sense_are_refused(bands):
    with pytest.raises(ValueError, match="a band is"):
        apply([], "bands", bands=bands)


def test_hybrid_maps_both_scores_to_one_scale_and_adds_them():
    def candidate(docid, **features):
        return Candidate(docid, "text", features=features)

    shown = (
        candidate("a", bm25_score=12.0, dense_score=0.1),
        candidate("b", bm25_score=2.0),
        candidate("c", dense_score=0.9),
    )
    given = RankingExample("q", "query", (*shown, candidate("d")), {"d": 1})
    [found], _ = apply([given], "hybrid")
    # bm25: a 1, b 0; dense: a 0, c 1. Half each: a .5, c .5, b 0; equal ones by docid. d was not found and is relevant.
    assert found.docids == ("a", "c", "b", "d")
    assert [c.score for c in found.candidates] == [0.5, 0.5, 0.0, None]
    [weighted], _ = apply([given], "hybrid", weight=0.2, depth=2)
    assert weighted.docids == ("c", "a", "d")


def test_dense_finds_by_embeddings_beside_what_is_there(tmp_path):
    library = pytest.importorskip("sentence_transformers")
    modules = importlib.import_module("sentence_transformers.sentence_transformer.modules")
    words = modules.BoW(vocab=["ice", "cave", "bread", "oven"])
    library.SentenceTransformer(modules=[words]).save(str(tmp_path / "words"))
    settings = config(tmp_path / "data", 1)
    documents = {"a": "ice cave", "b": "bread oven", "c": "cave"}
    rows = [{"docid": docid, "text": text} for docid, text in documents.items()]
    line = {"qid": "q1", "query": "ice cave", "split": "train", "candidates": rows, "qrels": {"a": 1}}
    (tmp_path / "data/examples.jsonl").write_text(json.dumps(line) + "\n")
    given = RankingExample("q1", "ice cave", (Candidate("b", "bread oven", rank=1),), {"a": 1})
    [found], _ = apply([given], "dense", settings=settings, model=str(tmp_path / "words"), depth=2, add=True)
    # "ice cave" is nearest to itself, then to "cave" (cosine 1 / sqrt 2).
    assert found.docids == ("b", "a", "c")
    assert found.candidate("a").features["dense_score"] == pytest.approx(1.0)
    assert found.candidate("c").features["dense_score"] == pytest.approx(2**-0.5)
    assert "dense_score" not in found.candidate("b").features


def test_a_corpus_alone_becomes_queries(tmp_path):
    settings = config(tmp_path, 3)
    engine = Scripted(lambda prompt: f'<think>hm</think>"what is {prompt.qid}?"' if prompt.qid != "q2-1" else "a\nb")
    passages = [RankingExample(d, "text", (Candidate(d, "text"),), {d: 1}) for d in ("q1-0", "q2-1")]
    [made], counts = apply(passages, "write_query", settings=settings, engine=engine)
    assert (made.qid, made.query, made.qrels) == ("q1-0-q", "what is q1-0?", {"q1-0": 1})
    assert made.provenance["passage"] == "q1-0" and made.provenance["query"].startswith("written by model, prompt ")
    assert counts["malformed"] == 1
    whole = run(settings, {"shuffle": {}}, inputs="passages", mixture={"pointwise": 0})
    assert [found.qid for found in whole] == [f"q{n}-{d}" for n in range(4) for d in range(3)]


def test_written_negatives_are_judged_not_relevant_and_survive_the_bands():
    def answer(prompt):
        system = prompt.messages[0].segments[0].text
        return "Only Alpine ones." if "one sentence" in system else "a passage that violates it"

    given = ranked(30, {2})
    [found], counts = apply([given], "write_negatives", engine=Scripted(answer), kind="instruction", count=2)
    assert found.instruction == "Only Alpine ones."
    written = found.candidates[-1]
    # The second one says the same as the first.
    assert (written.docid, written.text, len(found.candidates)) == (
        "q-write_negatives1",
        "a passage that violates it",
        31,
    )
    assert found.qrels == {"d2": 1, "q-write_negatives1": 0}
    assert counts["passages"] == 2
    [few], _ = apply([found], "bands", bands=[[10, 1]])
    assert {"d2", "q-write_negatives1"} < set(few.docids) and len(few.docids) == 3
    [silent], counts = apply([given], "write_negatives", engine=Scripted(lambda _: " "), count=3)
    assert silent.docids == given.docids and counts["malformed"] == 3


def test_classes_are_balanced_and_orders_shuffled():
    given = replace(ranked(20, {4, 9}), order=tuple(f"d{n}" for n in range(20, 0, -1)))
    [found], counts = apply([given], "balance", ratio=1.5)
    assert len(found.docids) == 5 and {"d4", "d9"} < set(found.docids) and counts["documents"] == 15
    assert found.order == tuple(d for d in given.order or () if d in found.docids)
    [other], _ = apply([given], "shuffle")
    assert sorted(other.docids) == sorted(given.docids) and other.docids != given.docids
    assert [c.rank for c in other.candidates] == places(other)
    assert apply([given], "shuffle", synth_stage=stage(seed=2))[0] != [other]


def test_windows_are_those_of_a_sliding_reranker():
    # N = 25, w = 20, s = 10: (5, 25) and (0, 15)
    made, counts = apply([ranked(25, {3})], "windows")
    assert [(e.qid, places(e)[0], places(e)[-1]) for e in made] == [("q-w0", 1, 15)]
    assert counts["one_grade"] == 1
    assert made[0].provenance["query"] == "q"


def test_groups_keep_the_labels_of_the_long_list_at_even_intervals():
    order = tuple(f"d{n}" for n in range(50, 0, -1))
    given = replace(ranked(50, {3}), order=order, scores={d: 50.0 - place for place, d in enumerate(order)})
    made, _ = apply([given], "groups")
    assert [len(e.docids) for e in made] == list(range(5, 21))
    for found in made:
        size = len(found.docids)
        steps = {order.index(b) - order.index(a) for a, b in zip(found.order, found.order[1:], strict=False)}
        assert steps == {50 // size}
        assert found.scores == {docid: given.scores[docid] for docid in found.order}
        assert found.qid == f"q-g{size}"
    assert (
        len(
            {
                tuple(e.order or ())
                for e in apply([replace(given, qid=f"q{n}") for n in range(9)], "groups", smallest=5, largest=5)[0]
            }
        )
        > 1
    )
    assert len(apply([given], "groups", number=2)[0]) == 2
    with pytest.raises(LookupError, match="'bare' has no gold order"):
        apply([example("bare", {"a": 1})], "groups")
