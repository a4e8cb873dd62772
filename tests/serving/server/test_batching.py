"""Requests that wait are ranked together, with the same answers as alone; limits of the queue and of time."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("fastapi", reason="the extra serve has it")
from support.exported import export
from support.served import by_length, client, scripted

from rl_rerank.config import ServeLimits
from rl_rerank.paradigms.groupwise import Groupwise
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.ranking.driver import rerank
from rl_rerank.serving.reranker import Reranker
from rl_rerank.serving.server.batching import Batcher, Busy, ModelFailed
from rl_rerank.serving.server.metrics import Metrics
from rl_rerank.serving.server.model import Model, example
from rl_rerank.serving.server.schemas import Document


def asked(query: str, *texts: str):
    return [example(query, [Document(text) for text in texts])]


class Held:
    """Ranks by length once it is let, and notes the queries of each batch and the threads."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.batches: list[list[str]] = []
        self.threads: set[int] = set()
        self.rank = by_length(Pointwise())

    def __call__(self, examples):
        self.batches.append([e.query for e in examples])
        self.threads.add(threading.get_ident())
        assert self.free.wait(20)
        for e in examples:
            if e.query == "bad":
                raise ValueError("this query is bad")
            if e.query == "broken":
                raise RuntimeError("out of memory at 0xdeadbeef")
        return self.rank(examples)


def run(test, rank, **limits):
    """Run `test(batcher)` beside the batcher's loop."""

    async def both():
        batcher = Batcher(rank, ServeLimits(**limits), Metrics())
        running = asyncio.create_task(batcher.run())
        try:
            await test(batcher)
        finally:
            rank.free.set()
            running.cancel()

    asyncio.run(both())


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def test_what_gathers_while_a_batch_is_ranked_is_the_next_batch():
    held = Held()

    async def test(batcher):
        first = asyncio.create_task(batcher.ask(asked("a", "x", "xx")))
        await until(lambda: held.batches)
        rest = [asyncio.create_task(batcher.ask(asked(query, "x", "xxx"))) for query in "bcde"]
        await asyncio.sleep(0.02)
        held.free.set()
        assert [[answer.scores for answer in await task] for task in [first, *rest]] == [
            [(1.0, 2.0)],
            *[[(1.0, 3.0)]] * 4,
        ]
        # Two documents each, and a batch has room for six.
        assert held.batches == [["a"], ["b", "c", "d"], ["e"]]
        assert len(held.threads) == 1

    run(test, held, batch_documents=6)


class Timed:
    """Takes as long for a batch of any size."""

    def __init__(self) -> None:
        self.free = threading.Event()  # which `run` sets
        self.batches: list[int] = []
        self.rank = by_length(Pointwise())

    def __call__(self, examples):
        self.batches.append(len(examples))
        time.sleep(0.3)
        return self.rank(examples)


@pytest.mark.slow
def test_clients_that_ask_again_at_once_are_ranked_together():
    """Without the pause behind a batch one client and three others would take turns: 1, 3, 1, 3, ..."""
    timed = Timed()

    async def test(batcher):
        async def ask_again(number):
            for turn in range(4):
                await batcher.ask(asked(f"{number} {turn}", "x"))

        first = asyncio.create_task(ask_again(0))
        await until(lambda: timed.batches)
        await asyncio.gather(first, *(ask_again(number) for number in (1, 2, 3)))

    run(test, timed)
    assert timed.batches == [1, 4, 4, 4, 3]


@pytest.mark.slow
def test_a_request_behind_a_pause_does_not_wait():
    timed = Timed()

    async def test(batcher):
        await asyncio.gather(*(batcher.ask(asked(query, "x")) for query in "abcd"))
        await asyncio.sleep(0.1)
        started = time.monotonic()
        asking = asyncio.create_task(batcher.ask(asked("e", "x")))
        before = len(timed.batches)
        await until(lambda: len(timed.batches) > before)
        assert time.monotonic() - started < 0.1
        await asking

    run(test, timed)


def test_a_request_above_the_batch_is_a_batch_by_itself():
    held = Held()

    async def test(batcher):
        tasks = [asyncio.create_task(batcher.ask(asked(q, *"x" * n))) for q, n in (("a", 1), ("b", 9), ("c", 1))]
        held.free.set()
        await asyncio.gather(*tasks)
        assert held.batches == [["a"], ["b"], ["c"]]

    run(test, held, batch_documents=2)


def test_too_many_that_wait_are_refused_with_a_time():
    held = Held()

    async def test(batcher):
        tasks = [asyncio.create_task(batcher.ask(asked("a", "x")))]
        await until(lambda: held.batches)
        tasks += [asyncio.create_task(batcher.ask(asked(q, "x"))) for q in "bc"]
        await asyncio.sleep(0)
        with pytest.raises(Busy, match="2 requests wait for the model already; try again in 1 s"):
            await batcher.ask(asked("d", "x"))
        held.free.set()
        await asyncio.gather(*tasks)
        assert len(await batcher.ask(asked("e", "x"))) == 1

    run(test, held, waiting=2)


def test_what_waits_too_long_is_dropped():
    held = Held()

    async def test(batcher):
        tasks = [asyncio.create_task(batcher.ask(asked("a", "x")))]
        await until(lambda: held.batches)
        tasks += [asyncio.create_task(batcher.ask(asked("b", "x")))]
        assert all(isinstance(e, TimeoutError) for e in await asyncio.gather(*tasks, return_exceptions=True))
        held.free.set()
        assert len(await batcher.ask(asked("c", "x"))) == 1
        assert held.batches == [["a"], ["c"]]

    run(test, held, seconds=0.2)


def test_only_the_request_at_fault_fails(caplog):
    held = Held()

    async def test(batcher):
        tasks = [asyncio.create_task(batcher.ask(asked("a", "x")))]
        await until(lambda: held.batches)
        tasks += [asyncio.create_task(batcher.ask(asked(q, "x"))) for q in ("b", "bad", "broken", "c")]
        await asyncio.sleep(0.02)
        held.free.set()
        _, b, bad, broken, c = await asyncio.gather(*tasks, return_exceptions=True)
        assert len(b) == len(c) == 1
        assert isinstance(bad, ValueError) and str(bad) == "this query is bad"
        assert isinstance(broken, ModelFailed)

    run(test, held)
    assert "0xdeadbeef" in caplog.text


def test_a_failure_of_the_model_is_a_500_without_its_reason(caplog):
    model = by_length(Pointwise())
    model.engine.score = lambda *_: (_ for _ in ()).throw(RuntimeError("CUDA error at 0xdeadbeef"))
    with client(model) as http:
        response = http.post("/v1/rerank", json={"query": "q", "documents": ["a"]})
        assert response.status_code == 500
        assert response.json()["message"] == "the model failed on this request; the server's log says why"
        assert http.get("/healthz").status_code == 200
    assert "0xdeadbeef" in caplog.text


def test_scores_that_are_not_finite_are_a_failure():
    with client(scripted(Pointwise(), lambda _: "", lambda *_: float("nan"))) as http:
        assert http.post("/v1/rerank", json={"query": "q", "documents": ["a"]}).status_code == 500


def test_a_full_queue_and_a_late_answer_have_their_statuses():
    class Slow:
        paradigm, scale = Pointwise(), "log_odds"

        def __call__(self, examples):
            time.sleep(0.5)
            return by_length(Pointwise())(examples)

    from starlette.testclient import TestClient

    from rl_rerank.serving.server.app import build

    app = build(Slow(), name="slow", scale="log_odds", reasons=False, limits=ServeLimits(waiting=1, seconds=0.3))
    with TestClient(app) as http, ThreadPoolExecutor(8) as pool:
        sent = [pool.submit(http.post, "/v1/rerank", json={"query": f"q{i}", "documents": ["a"]}) for i in range(8)]
        responses = [each.result() for each in sent]
    by_status = {response.status_code: response for response in responses}
    assert by_status.keys() == {429, 504}
    assert int(by_status[429].headers["retry-after"]) >= 1
    assert "wait for the model already" in by_status[429].json()["message"]
    assert "no answer within limits.seconds=0.3" in by_status[504].json()["message"]


TEXTS = ["ice caves", "yes no yes", "a glacier cave forms in the ice of a glacier", "bread", "ice caves"]


@pytest.mark.parametrize(
    "paradigm", [Pointwise(), Groupwise(size=2), Listwise(window=3, stride=1)], ids=lambda p: p.name
)
def test_answers_are_the_same_together_and_alone(tiny_model_dir, tmp_path, paradigm):
    loaded = Reranker.load(export(tiny_model_dir, tmp_path / "model", paradigm))
    model = Model(loaded.paradigm, loaded.engine, loaded.contract.long_documents)
    requests = [example(f"query {i % 3}", [Document(text) for text in TEXTS[: 2 + i % 4]]) for i in range(12)]
    for one, answer in zip(requests, model(requests), strict=True):
        [plain], _ = rerank([one], loaded.paradigm, loaded.engine)
        assert answer.order == tuple(map(int, plain.docids))
        own = plain.scores if plain.raw_scores is None else plain.raw_scores
        assert {str(i): s for i, s in enumerate(answer.scores) if str(i) in own} == pytest.approx(dict(own), abs=1e-5)


def test_equal_requests_of_a_batch_are_ranked_once():
    model = by_length(Pointwise())
    answers = model([*asked("q", "a", "bb"), *asked("r", "a"), *asked("q", "a", "bb")])
    assert [a.scores for a in answers] == [(1.0, 2.0), (1.0,), (1.0, 2.0)]
    assert model.engine.batch_sizes == [3]
