"""The engine of rerank servers: requests and replies of each protocol, against a stand-in and against our server."""

from __future__ import annotations

import dataclasses

import pytest
from support.openai_stand_in import error, serving

from rl_rerank.config import EngineConfig, ModelConfig
from rl_rerank.engines.base import Capability
from rl_rerank.engines.build import build_engine
from rl_rerank.engines.journal import Journal
from rl_rerank.engines.journaled import Journaled
from rl_rerank.engines.served.kinds import RerankAPI
from rl_rerank.engines.served.rerank_api import RerankAPIEngine
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.ranking.driver import rerank
from rl_rerank.types import Candidate, RankingExample

KEY = "rk-secret-0123456789"
YES_NO = ("yes", "no")


@pytest.fixture
def server():
    with serving() as stand_in:
        yield stand_in


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("RERANK_API_KEY", KEY)


def engine(url: str, **args) -> RerankAPIEngine:
    return RerankAPIEngine(RerankAPI(**{"model": "m", "base_url": url, "retry_wait": 0.01, "max_attempts": 3, **args}))


def example(qid: str, *texts: str, **more) -> RankingExample:
    candidates = tuple(Candidate(str(i), text, rank=i + 1) for i, text in enumerate(texts))
    return RankingExample(qid, f"query {qid}", candidates, **more)


def prompts(*examples: RankingExample):
    return [Pointwise().prompt(e, [docid]) for e in examples for docid in e.docids]


def scores(completions) -> list[float]:
    return [c.continuations["yes"] - c.continuations["no"] for c in completions]


def lengths(texts: list[str]) -> list[tuple[int, float]]:
    """(index, score) best first, as servers sort them; the score is a text's length less 3."""
    return sorted(((i, len(text) - 3.0) for i, text in enumerate(texts)), key=lambda row: -row[1])


def cohere(body, _):
    rows = [{"index": i, "relevance_score": x} for i, x in lengths(body["documents"])]
    return 200, {"id": "1", "results": rows, "meta": {"api_version": {"version": "2"}}}, {}


def jina(body, _):
    rows = [{"index": i, "relevance_score": x, "document": {"text": "t"}} for i, x in lengths(body["documents"])]
    return 200, {"model": "m", "results": rows, "usage": {"total_tokens": 9, "prompt_tokens": 9}}, {}


def sglang(body, _):
    return 200, [{"index": i, "score": x, "meta_info": {}} for i, x in lengths(body["documents"])], {}


def tei(body, _):
    return 200, [{"index": i, "score": x} for i, x in lengths(body["texts"])], {}


@pytest.mark.parametrize(
    ("reply", "protocol"), [(cohere, "cohere"), (jina, "cohere"), (sglang, "cohere"), (tei, "tei")]
)
def test_scores_come_back_in_the_order_of_the_prompts(server, reply, protocol):
    server.reply = reply
    asked = engine(server.url, protocol=protocol)
    found = asked.score(prompts(example("a", "x", "xxxx"), example("b", "xxx", "xx")), YES_NO)
    assert scores(found) == pytest.approx([-2.0, 1.0, 0.0, -1.0])
    assert set(server.paths) == {"/v1/rerank"}
    assert server.keys == [f"Bearer {KEY}"] * 2
    assert asked.usage["calls"] == 2


def test_a_request_has_the_documents_of_one_query(server):
    server.reply = cohere
    found = engine(server.url, documents=2).score(prompts(example("a", "x", "xx", "xxx"), example("b", "y")), YES_NO)
    assert len(found) == 4
    assert sorted((body["query"], body["documents"]) for body in server.bodies) == [
        ("query a", ["x", "xx"]),
        ("query a", ["xxx"]),
        ("query b", ["y"]),
    ]
    assert all(body.keys() == {"model", "query", "documents"} for body in server.bodies)


def test_tei_is_asked_for_raw_scores_of_cut_texts(server):
    server.reply = tei
    engine(server.url, protocol="tei").score(prompts(example("a", "x")), YES_NO)
    assert server.bodies == [{"query": "query a", "texts": ["x"], "raw_scores": True, "truncate": True}]


def test_an_instruction_a_title_and_further_fields_are_sent(server):
    server.reply = cohere
    one = example("a", "text", instruction="Only about ice.")
    titled = dataclasses.replace(one, candidates=(Candidate("0", "text", title="Ice"),))
    engine(server.url, body={"max_tokens_per_doc": 512, "model": None}).score(prompts(titled), YES_NO)
    [body] = server.bodies
    assert "query a" in body["query"] and "Only about ice." in body["query"]
    assert body["documents"] == ["Ice text"]
    assert body["max_tokens_per_doc"] == 512 and "model" not in body


def test_control_tokens_of_documents_do_not_reach_the_server(server):
    server.reply = cohere
    engine(server.url).score(prompts(example("a", "ice <|im_end|> cave")), YES_NO)
    assert "<|im_end|>" not in server.bodies[0]["documents"][0]


def results(*rows):
    return lambda *_: (200, {"results": list(rows)}, {})


@pytest.mark.parametrize(
    "reply",
    [
        results({"index": 0, "relevance_score": 1.0}),
        results(*[{"index": 0, "relevance_score": 1.0}] * 2),
        results({"index": 0, "relevance_score": 1.0}, {"index": 2, "relevance_score": 1.0}),
        results({"index": 0, "relevance_score": 1.0}, {"index": 1, "relevance_score": None}),
        results({"index": 0, "relevance_score": 1.0}, {"index": 1, "relevance_score": float("nan")}),
        results({"index": 0, "relevance_score": 1.0}, {"index": "1", "relevance_score": 1.0}),
        results(0, 1),
        lambda *_: (200, {"data": []}, {}),
        lambda *_: (200, "<html>", {}),
        lambda *_: (200, {"results": {}, "meta": []}, {}),
    ],
)
def test_a_reply_against_the_protocol_is_asked_for_again_and_then_refused(server, reply):
    server.reply = reply
    with pytest.raises(ConnectionError, match="gave no usable answer in 3 attempts"):
        engine(server.url).score(prompts(example("a", "x", "xx")), YES_NO)
    assert len(server.bodies) == 3


def test_a_busy_server_is_asked_again(server):
    server.reply = lambda body, number: error(429, retry_after="0.01") if number < 3 else cohere(body, number)
    asked = engine(server.url)
    assert scores(asked.score(prompts(example("a", "xxxx")), YES_NO)) == pytest.approx([1.0])
    assert asked.usage["retries"] == 2


def test_a_refusal_is_not_repeated_and_never_shows_the_key(server):
    server.reply = lambda *_: error(401, f"bad key {KEY}")
    with pytest.raises(PermissionError, match="the key in RERANK_API_KEY") as refused:
        engine(server.url).score(prompts(example("a", "x")), YES_NO)
    assert KEY not in str(refused.value)
    assert len(server.bodies) == 1


def test_a_server_that_compares_documents_is_refused(server):
    server.reply = lambda *_: (
        200,
        {"results": [{"index": 0, "relevance_score": 1.0}], "meta": {"score_scale": "order"}},
        {},
    )
    with pytest.raises(ValueError, match="serves a model that compares documents"):
        engine(server.url).score(prompts(example("a", "x")), YES_NO)
    assert len(server.bodies) == 1


def test_it_generates_nothing_and_answers_pointwise_prompts_only(server):
    asked = engine(server.url)
    assert asked.capabilities == {Capability.pair}
    with pytest.raises(ValueError, match="generates no text"):
        asked.generate([], None)
    with pytest.raises(ValueError, match="scores one document a prompt"):
        asked.score([Listwise().prompt(example("a", "x", "y"), ["0", "1"])], YES_NO)
    with pytest.raises(ValueError, match=r"stages\.test: a rerank server scores a query with one document"):
        RerankAPI(model="m", base_url=server.url).check("stages.test", Listwise(), "")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({}, "engine.args.(base_url|model) is required"),
        ({"model": "m", "base_url": "localhost"}, "engine.args.base_url must look like"),
        ({"model": "m", "base_url": "http://x", "protocol": "grpc"}, "engine.args.protocol must be one of"),
        ({"model": "m", "base_url": "http://x", "documents": 0}, "engine.args.documents must be at least 1; got 0"),
        ({"model": "m", "base_url": "http://x", "tokenizer": "t"}, "there is no setting 'engine.args.tokenizer'"),
    ],
)
def test_settings_are_checked(args, says):
    with pytest.raises(ValueError, match=says):
        EngineConfig(kind="rerank_api", args=args)


def test_answers_are_journaled_one_by_one(server, tmp_path):
    server.reply = cohere
    settings = EngineConfig(kind="rerank_api", args={"model": "m", "base_url": server.url})
    for texts, requests in ((["x", "xx"], 1), (["x", "xx"], 1), (["xx", "xxxx"], 2)):
        journaled = Journaled(engine(server.url), Journal(tmp_path / "journal"), settings.answering())
        assert scores(journaled.score(prompts(example("a", *texts)), YES_NO)) == pytest.approx(
            [len(t) - 3 for t in texts]
        )
        journaled.close()
        assert len(server.bodies) == requests
    assert server.bodies[-1]["documents"] == ["xxxx"]
    elsewhere = dataclasses.replace(settings, args={**settings.args, "revision": "2"})
    assert elsewhere.answering() != settings.answering()


@pytest.mark.parametrize(("protocol", "path"), [("cohere", "/v1"), ("cohere", "/v2"), ("tei", "")])
def test_our_own_server_is_a_baseline(tiny_model_dir, tmp_path, protocol, path):
    pytest.importorskip("uvicorn", reason="the extra serve has it")
    from support.exported import export
    from support.served import listening

    from rl_rerank.serving.reranker import Reranker

    loaded = Reranker.load(export(tiny_model_dir, tmp_path / "model", Pointwise()))
    examples = [example("a", "ice caves", "bread", "a glacier cave"), example("b", "tides", "the moon")]
    with listening(loaded, name="tiny", key=KEY) as url:
        args = {"model": "tiny", "base_url": f"{url}{path}", "protocol": protocol}
        asked = build_engine(EngineConfig(kind="rerank_api", args=args), ModelConfig(), None)
        served, _ = rerank(examples, Pointwise(), asked)
    plain, _ = rerank(examples, loaded.paradigm, loaded.engine)
    for mine, theirs in zip(served, plain, strict=True):
        assert mine.docids == theirs.docids
        assert mine.raw_scores == pytest.approx(theirs.raw_scores, abs=1e-5)
    loaded.close()
