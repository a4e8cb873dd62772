"""Ranking with an exported folder, and refusing one that has changed."""

from __future__ import annotations

import json
import math
import shutil

import pytest
from support.exported import export

from rl_rerank.config import LongDocumentsConfig
from rl_rerank.engines.scripted import Scripted
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.serving import Reranker, contract
from rl_rerank.serving.scores import golden

DOCUMENTS = ["ice caves", "yes no yes", "a glacier cave forms in the ice of a glacier", "bread"]


@pytest.fixture(scope="module")
def exported(tiny_model_dir, tmp_path_factory):
    return export(tiny_model_dir, tmp_path_factory.mktemp("exported") / "model", Pointwise())


@pytest.fixture(scope="module")
def reranker(exported) -> Reranker:
    return Reranker.load(exported)


def scripted(score) -> Reranker:
    terms = contract.Contract(
        paradigm="pointwise", paradigm_params={}, max_prompt_tokens=256, dtype="", prompt_fingerprint="", base_model=""
    )
    engine = Scripted(lambda prompt: "", lambda prompt, text: score(prompt) if text == "yes" else 0.0)
    return Reranker(Pointwise(), engine, terms)


def by_length() -> Reranker:
    """The longer a document, the better."""
    return scripted(lambda prompt: float(sum(len(s.text) for m in prompt.messages for s in m.segments if s.docid)))


def test_documents_come_back_best_first_by_index():
    assert [i for i, _ in by_length().rank("caves", ["bb", "a", "cccc", "ddd"])] == [2, 3, 0, 1]


def test_top_n_keeps_the_best():
    assert [i for i, _ in by_length().rank("caves", ["bb", "a", "cccc", "ddd"], top_n=2)] == [2, 3]
    assert len(by_length().rank("caves", ["bb", "a"], top_n=5)) == 2


def test_equal_documents_are_told_apart_by_index():
    assert sorted(i for i, _ in by_length().rank("caves", ["ice", "ice", "ice"])) == [0, 1, 2]


@pytest.mark.parametrize("copies", [2, 40])
def test_equal_documents_have_the_score_of_each_alone(reranker, copies):
    """Equal scores are no reason to give ranks in their place."""
    alone = dict(reranker.rank("caves", DOCUMENTS))
    ranked = reranker.rank("caves", [*DOCUMENTS, *[DOCUMENTS[0]] * (copies - 1)])
    expected = [*alone.values(), *[alone[0]] * (copies - 1)]
    assert sorted(s for _, s in ranked) == pytest.approx(sorted(expected), abs=1e-5)
    places = [i for i, _ in ranked if i == 0 or i >= len(DOCUMENTS)]
    assert len(places) == copies and [s for _, s in ranked] == sorted((s for _, s in ranked), reverse=True)


@pytest.mark.parametrize("nothing", ["", " \n", "\u200b\u200b"])
def test_a_document_without_visible_text_is_scored_among_others(reranker, nothing):
    """Nine texts and one of which nothing is shown: ten scores of the model."""
    documents = [f"ice cave {i}" for i in range(9)]
    alone = dict(reranker.rank("caves", documents))
    ranked = dict(reranker.rank("caves", [*documents[:4], nothing, *documents[4:]]))
    expected = [alone[i] for i in range(9)]
    assert [ranked[i] for i in (0, 1, 2, 3, 5, 6, 7, 8, 9)] == pytest.approx(expected, abs=1e-5)
    assert abs(ranked[4]) < 1 and ranked[4] not in expected  # a random model's log-odds, and no rank


def test_a_mapping_brings_a_title():
    ranked = by_length().rank(
        "caves", ["four", {"title": "a long title", "text": "x", "url": "ignored"}, {"text": "ab"}]
    )
    assert [i for i, _ in ranked] == [1, 0, 2]


def test_scores_are_the_log_odds_of_the_answer(reranker):
    # The scripted engine knows nothing of the model; the loaded one must give log p(yes) - log p(no).
    ranked = dict(reranker.rank("how are glacier caves formed?", DOCUMENTS))
    example = contract.golden_example("how are glacier caves formed?", DOCUMENTS)
    prompts = [reranker.paradigm.prompt(example, [docid]) for docid in example.docids]
    for i, scored in enumerate(reranker.engine.score(prompts, ["yes", "no"])):
        assert ranked[i] == pytest.approx(scored.continuations["yes"] - scored.continuations["no"], abs=1e-5)
    assert list(ranked.values()) == sorted(ranked.values(), reverse=True)


def test_many_requests_rank_as_one_by_one(reranker):
    requests = [("caves", DOCUMENTS), ("bread", DOCUMENTS[::-1])]
    together = reranker.rank_many(requests, top_n=3)
    for (query, documents), ranked in zip(requests, together, strict=True):
        alone = reranker.rank(query, documents, top_n=3)
        assert [i for i, _ in ranked] == [i for i, _ in alone]
        assert [s for _, s in ranked] == pytest.approx([s for _, s in alone], abs=1e-5)


def test_a_document_longer_than_the_context_is_cut(reranker):
    assert sorted(i for i, _ in reranker.rank("caves", ["ice " * 5000, "bread"])) == [0, 1]


@pytest.mark.parametrize(
    ("query", "documents", "top_n", "message"),
    [
        ("  ", ["a"], None, "the query is empty"),
        ("q", [], None, "documents is empty"),
        ("q", "text", None, "must be a list"),
        ("q", [{"body": "a"}], None, "document 0 must have its 'text'"),
        ("q", ["a", 3], None, "document 1 must be a text or a mapping"),
        ("q", ["a"], 0, "top_n must be at least 1"),
    ],
)
def test_what_cannot_be_ranked_is_refused_in_a_sentence(query, documents, top_n, message):
    with pytest.raises(ValueError, match=message):
        by_length().rank(query, documents, top_n=top_n)


def test_a_bad_request_among_many_is_named():
    with pytest.raises(ValueError, match="request 1: document 0 is empty"):
        by_length().rank_many([("q", ["a"]), ("q", [""])])


def test_a_folder_without_a_contract_says_how_to_get_one(tiny_model_dir):
    with pytest.raises(FileNotFoundError, match=r"has no reranker\.json.*rl-rerank export"):
        Reranker.load(tiny_model_dir)


def test_the_golden_pairs_score_as_they_did_at_export(reranker):
    reranker.verify()
    golden = reranker.contract.golden[0]
    kept = list(golden.scores)
    golden.scores[1] += 0.1
    with pytest.raises(ValueError, match="document 1"):
        reranker.verify()
    golden.scores[:] = kept


def test_a_changed_template_is_refused(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "model")
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|im_end|>\n", "<|im_end|>"))
    with pytest.raises(ValueError, match="its prompts are no longer those that the model was exported with"):
        Reranker.load(folder)


def test_a_changed_tokenizer_is_refused(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "model")
    terms = contract.read(folder)
    terms.continuation_ids["yes"] = [7]
    contract.write(folder, terms)
    with pytest.raises(ValueError, match=r"turns 'yes' into \[\d+\], and the model was exported with \[7\]"):
        Reranker.load(folder)


def test_a_damaged_contract_names_its_file(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "model")
    values = json.loads((folder / contract.FILE).read_text())
    for text, message in (
        ("{", "is not JSON"),
        ("[]", "has no version number"),
        (json.dumps({**values, "version": 99}), "has version 99"),
        (json.dumps({**values, "max_prompt_tokens": "many"}), "must be of type int"),
    ):
        (folder / contract.FILE).write_text(text)
        with pytest.raises(ValueError, match=message):
            contract.read(folder)


def test_a_listwise_model_keeps_its_parameters(tiny_model_dir, tmp_path):
    folder = export(tiny_model_dir, tmp_path / "model", Listwise(window=3, stride=1))
    loaded = Reranker.load(folder, dtype="float32", batch_tokens=512)
    assert loaded.paradigm == Listwise(window=3, stride=1)
    assert sorted(i for i, _ in loaded.rank("caves", DOCUMENTS)) == [0, 1, 2, 3]


def test_a_document_without_a_finite_score_lies_between_its_neighbours(caplog):
    """NaN for document 1; the others have 0, 2 and 3."""
    reranker = scripted(lambda p: math.nan if p.docids == ("1",) else float(p.docids[0]))
    # 1 lies between 0 and 2 in the given order, so its score is (0 + 2) / 2.
    assert reranker.rank("q", list("abcd")) == [(3, 3.0), (2, 2.0), (1, 1.0), (0, 0.0)]
    assert "log-probabilities of 1 of 4 answers are not finite" in caplog.text


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_documents_without_any_finite_score_are_not_ranked(bad):
    reranker = scripted(lambda _: bad)
    with pytest.raises(ValueError, match=r"all 4 answers are not finite.*model\.dtype=float16.*bfloat16 or float32"):
        reranker.rank("q", list("abcd"))


def test_a_request_without_any_finite_score_is_named_among_others():
    reranker = scripted(lambda p: math.nan if p.qid == "1" else float(p.docids[0]))
    assert len(reranker.rank_many([("q", ["a", "b"])])) == 1
    with pytest.raises(ValueError, match=r"^request 1: log-probabilities of all 2 answers are not finite"):
        reranker.rank_many([("q", ["a", "b"]), ("r", ["c", "d"])])


def test_golden_scores_are_all_finite(chatml_tokenizer):
    reranker = scripted(lambda p: math.nan if p.docids == ("1",) else 1.0)
    renderer = Renderer(chatml_tokenizer, max_prompt_tokens=256)
    with pytest.raises(ValueError, match=r"the golden query 'q': .* of 1 of 3 answers are not finite; model\.dtype"):
        golden(Pointwise(), reranker.engine, renderer, LongDocumentsConfig(), "q", list("abc"))


def test_long_documents_are_treated_as_in_training(tiny_model_dir, tmp_path):
    """By maxp a document has the score of its best passage, whatever else it holds."""
    how = LongDocumentsConfig(mode="maxp", words=40, overlap=0)
    loaded = Reranker.load(export(tiny_model_dir, tmp_path / "model", Pointwise(), how=how))
    assert loaded.contract.long_documents == how
    passages = [" ".join([word] * 40) for word in ("ice", "cave", "bread")]
    alone = dict(loaded.rank("caves", passages))
    [(_, score)] = loaded.rank("caves", ["\n".join(passages)])
    assert score == pytest.approx(max(alone.values()), abs=1e-5)
    first = LongDocumentsConfig(mode="firstp", words=40, overlap=0)
    loaded = Reranker.load(export(tiny_model_dir, tmp_path / "first", Pointwise(), how=first))
    [(_, score)] = loaded.rank("caves", ["\n".join(passages)])
    assert score == pytest.approx(alone[0], abs=1e-5)


def test_a_contract_of_the_first_version_is_read(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "model")
    values = json.loads((folder / contract.FILE).read_text()) | {"version": 1}
    for name in ("long_documents", "stop_ids", "cross_encoder"):
        del values[name]
    for entry in values["golden"]:
        del entry["prompts"]
    (folder / contract.FILE).write_text(json.dumps(values))
    loaded = Reranker.load(folder)
    loaded.verify()
    assert loaded.contract.long_documents.mode == "head" and loaded.contract.cross_encoder is None


def test_another_end_of_answers_is_refused(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "model")
    terms = contract.read(folder)
    terms.stop_ids = [1, 7]
    contract.write(folder, terms)
    with pytest.raises(ValueError, match=r"stops at the tokens \[.*\], and the model was exported with \[1, 7\]"):
        Reranker.load(folder)


def test_a_golden_score_that_is_no_number_does_not_verify():
    reranker = by_length()
    reranker.contract.golden = [contract.GoldenScores(query="q", documents=["a", "bb"], scores=[1.0, math.nan])]
    with pytest.raises(ValueError, match=r"document 1: this engine scores 2\.0+ and the model was exported with nan"):
        reranker.verify()
