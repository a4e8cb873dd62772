"""The project's own client: the interface of `Reranker`, over HTTP."""

from __future__ import annotations

import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytest.importorskip("uvicorn", reason="the extra serve has it")
from support.exported import export
from support.served import by_length, listening, scripted

from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.serving import Client, Reranker

KEY = "a-key-of-the-test"
TEXTS = ["ice", {"text": "a glacier", "title": "cave"}, "", {"text": "ice"}]


@pytest.fixture(scope="module")
def url():
    with listening(by_length(Pointwise()), name="lengths", key=KEY) as found:
        yield found


def test_it_ranks_as_the_reranker_behind_the_server(tiny_model_dir, tmp_path):
    reranker = Reranker.load(export(tiny_model_dir, tmp_path / "model", Pointwise()))
    texts = ["ice caves", {"text": "glacier cave", "title": "ice"}, "bread"]
    own = reranker.rank("caves", texts)
    with listening(reranker) as address:
        found = Client(address).rank("caves", texts)
    assert [index for index, _ in found] == [index for index, _ in own]
    assert dict(found) == pytest.approx(dict(own), abs=1e-5)


def test_titles_empty_texts_equal_texts_and_top_n(url):
    client = Client(url, api_key=KEY, model="lengths")
    # "cave" and "a glacier" have 13 letters
    assert client.rank("q", TEXTS) == [(1, 13.0), (0, 3.0), (3, 3.0), (2, 0.0)]
    assert client.rank("q", TEXTS, top_n=1) == [(1, 13.0)]


def test_an_order_is_returned_as_the_server_gives_it():
    with listening(scripted(Listwise(), lambda _: "[2] > [1]")) as address:
        assert Client(address).rank("q", ["a", "b"]) == [(1, 2.0), (0, 1.0)]


def test_no_best_document_is_refused_as_by_the_reranker(url):
    with pytest.raises(ValueError, match="top_n must be at least 1, or None for all documents; got 0"):
        Client(url, api_key=KEY).rank("q", TEXTS, top_n=0)


@pytest.mark.parametrize(
    ("arguments", "asked", "says"),
    [
        ({}, ("q", ["a"]), "needs its key, .* .status 401"),
        ({"api_key": KEY}, ("", ["a"]), "query is empty"),
        ({"api_key": KEY}, ("q", []), "documents is empty"),
        ({"api_key": KEY, "model": "other"}, ("q", ["a"]), "there is no model 'other' here"),
        ({"api_key": KEY}, ("q", [{"text": "a", "image": "x"}]), "has 'image', and this server ranks texts only"),
    ],
)
def test_a_refusal_is_an_error_with_the_servers_sentence(url, arguments, asked, says):
    with pytest.raises(ValueError, match=says):
        Client(url, **arguments).rank(*asked)


def test_no_server_is_an_error_with_its_address():
    with pytest.raises(OSError, match=re.escape("http://127.0.0.1:9/v2/rerank: ")):
        Client("http://127.0.0.1:9").rank("q", ["a"])
    with pytest.raises(ValueError, match="must begin with http:// or https://; got 'file:///etc'"):
        Client("file:///etc")


class Busy(BaseHTTPRequestHandler):
    """Refuses the first requests as a full server does, and answers then."""

    refusals = 2

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        refused = type(self).refusals > 0
        type(self).refusals -= 1
        body = b'{"message": "busy"}' if refused else b'{"results": [{"index": 0, "relevance_score": 1.5}]}'
        self.send_response(429 if refused else 200)
        self.send_header("Retry-After", "1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.slow
@pytest.mark.parametrize(("timeout", "answer"), [(20.0, [(0, 1.5)]), (0.5, None)])
def test_a_busy_server_is_asked_again_in_time(timeout, answer):
    class Own(Busy):
        refusals = 1

    server = ThreadingHTTPServer(("127.0.0.1", 0), Own)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    client = Client(f"http://127.0.0.1:{server.server_port}", timeout=timeout)
    started = time.monotonic()
    try:
        if answer is None:
            with pytest.raises(OSError, match=r"busy \(status 429\)"):
                client.rank("q", ["a"])
        else:
            assert client.rank("q", ["a"]) == answer
            assert time.monotonic() - started >= 1
    finally:
        server.shutdown()
        server.server_close()
