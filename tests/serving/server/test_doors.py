"""What each path answers, over tiny random models and over models whose answers are known."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("fastapi", reason="the extra serve has it")
from support.exported import export
from support.served import by_length, client, scripted, shown

from rl_rerank.paradigms.first_token import FirstToken
from rl_rerank.paradigms.groupwise import Groupwise
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.paradigms.pairwise import Pairwise
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.paradigms.pointwise_graded import PointwiseGraded
from rl_rerank.paradigms.setwise import Setwise
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.serving.calibration import Calibration
from rl_rerank.serving.reranker import Reranker
from rl_rerank.serving.server.model import Model
from rl_rerank.serving.server.schemas import RerankResponse, ScoreResponse, TEIResult
from rl_rerank.types import Prompt

QUERY = "how are glacier caves formed?"
DOCUMENTS = ["ice caves", "yes no yes", "a glacier cave forms in the ice of a glacier", "bread"]


@pytest.fixture(scope="module")
def reranker(tiny_model_dir, tmp_path_factory) -> Reranker:
    return Reranker.load(export(tiny_model_dir, tmp_path_factory.mktemp("exported") / "model", Pointwise()))


@pytest.fixture(scope="module")
def tiny(reranker):
    with client(reranker) as found:
        yield found


@pytest.fixture(scope="module")
def known():
    """Scores are the lengths of documents."""
    with client(by_length(Pointwise())) as found:
        yield found


def ranked(http, path="/v1/rerank", **body):
    response = http.post(path, json={"query": QUERY, **body})
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize(("path", "version"), [("/v1/rerank", "1"), ("/v2/rerank", "2")])
def test_cohere_jina_and_vllm_find_their_fields(tiny, path, version):
    body = ranked(tiny, path, model="tiny", documents=DOCUMENTS, top_n=3, return_documents=True)
    RerankResponse.model_validate(body, strict=True)
    assert body["meta"] == {"api_version": {"version": version}, "score_scale": "log_odds"}
    assert body["model"] == "tiny" and body["id"]
    assert len(body["results"]) == 3
    assert all(r["document"] == {"text": DOCUMENTS[r["index"]]} for r in body["results"])
    scores = [r["relevance_score"] for r in body["results"]]
    assert scores == sorted(scores, reverse=True)
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] > 100
    assert "reasoning" not in body


def test_a_score_is_the_rerankers_own(tiny, reranker):
    found = {r["index"]: r["relevance_score"] for r in ranked(tiny, documents=DOCUMENTS)["results"]}
    assert found == pytest.approx(dict(reranker.rank(QUERY, DOCUMENTS)), abs=1e-5)


def test_usage_counts_the_tokens_of_the_prompts(tiny, reranker):
    prompts = [reranker.paradigm.prompt(example(DOCUMENTS), [docid]) for docid in "0123"]
    tokens = sum(len(reranker.engine.render(prompt)) for prompt in prompts)
    assert ranked(tiny, documents=DOCUMENTS)["usage"] == {
        "prompt_tokens": tokens,
        "completion_tokens": 0,
        "total_tokens": tokens,
    }


def test_every_prompt_is_rendered_once(reranker):
    model = Model(reranker.paradigm, reranker.engine, reranker.contract.long_documents)
    rendered: list[Prompt] = []

    class Counting(Renderer):
        def __call__(self, prompt):
            rendered.append(prompt)
            return super().__call__(prompt)

    before = model.engine.renderer
    model.engine.renderer = Counting(before.tokenizer, max_prompt_tokens=before.max_prompt_tokens)
    try:
        [answer] = model([example(DOCUMENTS)])
    finally:
        model.engine.renderer = before
    assert len(rendered) == len(DOCUMENTS)
    assert answer.prompt_tokens == sum(len(before(prompt).token_ids) for prompt in rendered)


def example(documents):
    from rl_rerank.serving.contract import golden_example

    return golden_example(QUERY, documents)


def test_documents_are_texts_or_objects_with_a_title(known):
    mixed = ["four", {"title": "a long title", "text": "x", "id": 7, "meta": {"n": 1}}, {"text": "ab", "title": None}]
    body = ranked(known, documents=mixed, return_documents=True)
    assert [(r["index"], r["relevance_score"]) for r in body["results"]] == [(1, 13.0), (0, 4.0), (2, 2.0)]
    assert body["results"][0]["document"] == {"text": "x", "title": "a long title"}


@pytest.mark.parametrize(("top_n", "count"), [(None, 3), (0, 3), (1, 1), (3, 3), (50, 3)])
def test_top_n_keeps_the_best(known, top_n, count):
    assert [r["index"] for r in ranked(known, documents=["bb", "a", "ccc"], top_n=top_n)["results"]] == [2, 0, 1][
        :count
    ]


@pytest.mark.parametrize(
    ("fields", "indices"),
    [
        ({"threshold": 2}, [2, 0]),
        ({"threshold": 2.5}, [2]),
        ({"threshold": -1.0}, [2, 0, 1]),
        ({"threshold": 99.0}, []),
        ({"threshold": 1.0, "top_n": 1}, [2]),
        ({"threshold": 0.9, "use_activation": True}, [2]),  # sigmoid(3) is 0.953, sigmoid(2) 0.881
    ],
)
def test_a_threshold_leaves_out_what_scores_less(known, fields, indices):
    assert [r["index"] for r in ranked(known, documents=["bb", "a", "ccc"], **fields)["results"]] == indices


def test_equal_documents_have_the_models_score_each(known):
    body = ranked(known, documents=["ice", "bread", "ice"])
    assert [(r["index"], r["relevance_score"]) for r in body["results"]] == [(1, 5.0), (0, 3.0), (2, 3.0)]


def test_equal_documents_of_a_model_have_equal_scores(tiny):
    alone = {r["index"]: r["relevance_score"] for r in ranked(tiny, documents=DOCUMENTS)["results"]}
    twice = {r["index"]: r["relevance_score"] for r in ranked(tiny, documents=[*DOCUMENTS, DOCUMENTS[0]])["results"]}
    assert twice[0] == pytest.approx(twice[4], abs=1e-5)
    assert {i: twice[i] for i in alone} == pytest.approx(alone, abs=1e-5)


def test_a_thousand_equal_documents_are_ranked(known):
    body = ranked(known, documents=["ice"] * 1000)
    assert [r["index"] for r in body["results"]] == list(range(1000))
    assert {r["relevance_score"] for r in body["results"]} == {3.0}


@pytest.mark.slow
def test_a_model_ranks_a_thousand_equal_documents(tiny):
    scores = [r["relevance_score"] for r in ranked(tiny, documents=["ice"] * 1000)["results"]]
    assert max(scores) - min(scores) < 1e-5


@pytest.mark.parametrize("empty", ["", " \n", "\u200b\u200b", "\x00"])
def test_an_empty_document_is_ranked_with_the_others(tiny, empty):
    documents = [*DOCUMENTS, empty, "tides", "moon", "salt", "snow", "array"]
    body = ranked(tiny, documents=documents)
    assert sorted(r["index"] for r in body["results"]) == list(range(10))
    assert all(math.isfinite(r["relevance_score"]) for r in body["results"])


def test_a_document_of_a_megabyte_is_cut(tiny):
    body = ranked(tiny, documents=["ice " * 2**18, "bread"])
    assert sorted(r["index"] for r in body["results"]) == [0, 1]
    assert body["usage"]["prompt_tokens"] <= 2 * 256


def test_a_definition_of_relevance_reaches_the_prompt():
    def answer(prompt, text):
        return float("only the moon" in " ".join(m.text for m in prompt.messages)) if text == "yes" else 0.0

    with client(scripted(Pointwise(), lambda _: "", answer)) as http:
        assert ranked(http, documents=["a"], instruction="only the moon")["results"][0]["relevance_score"] == 1.0
        assert ranked(http, documents=["a"])["results"][0]["relevance_score"] == 0.0


def test_fields_of_other_servers_that_change_nothing_are_taken(known):
    others = {
        "max_tokens_per_doc": 4096,
        "max_chunks_per_doc": 10,
        "truncate_prompt_tokens": -1,
        "rank_fields": ["text"],
    }
    assert ranked(known, documents=["a"], **others) != {}


def test_a_probability_is_an_activated_log_odds():
    with client(by_length(Pointwise())) as http:
        results = ranked(http, documents=["abc", ""], use_activation=True)["results"]
    # sigmoid(3) and sigmoid(0)
    assert [r["relevance_score"] for r in results] == pytest.approx([0.9525741, 0.5], abs=1e-6)


def test_a_calibrated_model_gives_the_probabilities_that_were_fitted():
    fitted = Calibration(slope=0.5, intercept=-1.0, run="dev", queries=9, documents=90)
    with client(by_length(Pointwise()), calibration=fitted) as http:
        body = {"documents": ["abcd", ""], "use_activation": True}
        results = ranked(http, **body)["results"]
        assert [r["index"] for r in ranked(http, **body, threshold=0.3)["results"]] == [0]
        found = ranked(http, "/rerank", texts=["abcd", ""])
    # sigmoid(4 / 2 - 1) and sigmoid(-1)
    assert [r["relevance_score"] for r in results] == pytest.approx([0.7310586, 0.2689414], abs=1e-6)
    assert [r["score"] for r in found] == pytest.approx([0.7310586, 0.2689414], abs=1e-6)


def test_points_have_probabilities_where_they_are_calibrated():
    graded = scripted(PointwiseGraded(), lambda prompt: str(len(shown(prompt)[0])))
    fitted = Calibration(slope=1.0, intercept=-3.0, run="dev", queries=9, documents=90)
    with client(graded, calibration=fitted) as http:
        results = ranked(http, documents=["abc", "abcdef"], use_activation=True)["results"]
    assert [r["relevance_score"] for r in results] == pytest.approx([0.9525741, 0.5], abs=1e-6)


def test_tei_finds_its_fields(known):
    body = ranked(known, "/rerank", texts=["a", "abc"], raw_scores=True, return_text=True, truncate=True)
    assert body == [{"index": 1, "score": 3.0, "text": "abc"}, {"index": 0, "score": 1.0, "text": "a"}]
    for result in body:
        TEIResult.model_validate(result, strict=True)


def test_tei_gives_probabilities_unless_raw_scores_are_asked_for(known):
    body = ranked(known, "/rerank", texts=["a", "abc"])
    # sigmoid(3) and sigmoid(1)
    assert [r["score"] for r in body] == pytest.approx([0.9525741, 0.7310586], abs=1e-6)
    assert "text" not in body[0]


def test_tei_gives_points_as_they_are():
    with client(scripted(PointwiseGraded(), lambda _: "2")) as http:
        response = http.post("/rerank", json={"query": QUERY, "texts": ["a"]})
    assert response.json() == [{"index": 0, "score": 2.0}]
    assert response.headers["x-score-scale"] == "points"


@pytest.mark.parametrize(
    ("text_1", "text_2", "scores"),
    [
        ("q", "abc", [3.0]),
        ("q", ["a", "abc"], [1.0, 3.0]),
        (["q"], ["a"], [1.0]),
        (["q", "r"], ["ab", "c"], [2.0, 1.0]),
    ],
)
def test_vllm_scores_pairs_in_their_order(known, text_1, text_2, scores):
    response = known.post("/score", json={"model": "tiny", "text_1": text_1, "text_2": text_2})
    assert response.status_code == 200, response.text
    body = response.json()
    ScoreResponse.model_validate(body, strict=True)
    assert body["data"] == [{"index": i, "object": "score", "score": s} for i, s in enumerate(scores)]
    assert body["object"] == "list"


PARADIGMS = [
    (Pointwise(), "log_odds"),
    (PointwiseGraded(), "points"),
    (Groupwise(size=2), "points"),
    (Pairwise(), "relative"),
    (Setwise(), "order"),
    (Listwise(window=3, stride=1), "order"),
    (Listwise(window=3, stride=1, constrained=True), "order"),
    (Listwise(reasoning=True, think_tokens=8), "order"),
    (FirstToken(), "order"),
]


@pytest.mark.parametrize(("paradigm", "scale"), PARADIGMS, ids=lambda value: getattr(value, "name", value))
def test_every_paradigm_is_served(tiny_model_dir, tmp_path, paradigm, scale):
    loaded = Reranker.load(export(tiny_model_dir, tmp_path / "model", paradigm))
    with client(loaded) as http:
        response = http.post("/v1/rerank", json={"query": QUERY, "documents": DOCUMENTS, "return_reasoning": True})
        body = response.json()
        assert response.status_code == 200, body
        assert sorted(r["index"] for r in body["results"]) == [0, 1, 2, 3]
        assert body["meta"]["score_scale"] == response.headers["x-score-scale"] == scale
        refused = http.post("/score", json={"text_1": QUERY, "text_2": DOCUMENTS})
        assert refused.status_code == (200 if scale in ("log_odds", "points") else 422)


def test_a_listwise_model_gives_its_order_and_its_reasoning_where_asked():
    def answer(prompt):
        longest = sorted(range(1, len(prompt.docids) + 1), key=lambda i: -len(shown(prompt)[i - 1]))
        return f"<think>Longer is <b>better</b>.</think><answer>{' > '.join(f'[{i}]' for i in longest)}</answer>"

    with client(scripted(Listwise(window=2, stride=1, reasoning=True), answer)) as http:
        body = ranked(http, documents=["a", "ccc", "bb"], return_reasoning=True)
        plain = ranked(http, documents=["a", "ccc", "bb"])
    # The window goes over ccc and bb first, then over a and the better of them.
    assert [(r["index"], r["relevance_score"]) for r in body["results"]] == [(1, 3.0), (0, 2.0), (2, 1.0)]
    assert body["reasoning"] == [
        {"documents": [1, 2], "text": "Longer is <b>better</b>."},
        {"documents": [0, 1], "text": "Longer is <b>better</b>."},
    ]
    assert "reasoning" not in plain


def test_a_model_without_reasoning_returns_none(known):
    assert ranked(known, documents=["a"], return_reasoning=True)["reasoning"] == []


def test_unusable_answers_are_a_warning():
    with client(scripted(Listwise(), lambda _: "no idea")) as http:
        body = ranked(http, documents=["a", "b"])
    assert [r["index"] for r in body["results"]] == [0, 1]
    assert "1 of 1 answers could not be used" in body["meta"]["warnings"][0]


def test_health_models_and_the_schema(tiny):
    assert tiny.get("/healthz").json() == {"status": "ok", "model": "tiny", "score_scale": "log_odds", "reasons": False}
    assert [m["id"] for m in tiny.get("/v1/models").json()["data"]] == ["tiny"]
    schema = tiny.get("/openapi.json").json()
    assert {"/v1/rerank", "/v2/rerank", "/rerank", "/score", "/healthz", "/metrics"} <= schema["paths"].keys()
    documents = schema["components"]["schemas"]["RerankRequest"]["properties"]["documents"]
    assert [option["type"] for option in documents["items"]["anyOf"]] == ["string", "object"]


def test_requests_are_counted_by_path_and_status():
    with client(by_length(Pointwise())) as http:
        ranked(http, documents=["a", "b"])
        http.post("/v1/rerank", json={})
        http.get("/nowhere/at/all")
        text = http.get("/metrics").text
    assert 'rl_rerank_requests_total{path="/v1/rerank",status="200"} 1.0' in text
    assert 'rl_rerank_requests_total{path="/v1/rerank",status="422"} 1.0' in text
    assert 'rl_rerank_requests_total{path="other",status="404"} 1.0' in text
    assert "rl_rerank_batch_documents_sum 2.0" in text
    assert 'rl_rerank_request_seconds_count{path="/v1/rerank"} 2.0' in text
    assert "rl_rerank_waiting_requests 0.0" in text
