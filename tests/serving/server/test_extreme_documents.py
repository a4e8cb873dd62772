"""Equal, empty and very long documents: every path gives each the model's score, as `Reranker` does."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

pytest.importorskip("fastapi", reason="the extra serve has it")
from support.exported import export
from support.served import client, scripted, shown

from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.paradigms.pointwise_graded import PointwiseGraded
from rl_rerank.serving.reranker import Reranker

QUERY = "how are glacier caves formed?"
NINE = [f"ice cave {number}" for number in range(9)]
MEGABYTE = "ice " * 2**18
PATHS = ["/v1/rerank", "/v2/rerank", "/rerank", "/score"]
Scores = Callable[[list[str]], list[float]]
"""Texts to the score of each."""


@pytest.fixture(scope="module")
def reranker(tiny_model_dir, tmp_path_factory) -> Reranker:
    return Reranker.load(export(tiny_model_dir, tmp_path_factory.mktemp("exported") / "model", Pointwise()))


@pytest.fixture(scope="module")
def served(reranker):
    with client(reranker) as found:
        yield found


def of_path(http, path: str) -> Scores:
    """Ask one of the server's paths for raw scores, and check that its order is theirs."""

    def scores(texts: list[str]) -> list[float]:
        body = {
            "/rerank": {"query": QUERY, "texts": texts, "raw_scores": True},
            "/score": {"text_1": QUERY, "text_2": texts},
        }.get(path, {"query": QUERY, "documents": texts})
        response = http.post(path, json=body)
        assert response.status_code == 200, response.text
        found = response.json()
        rows = found if path == "/rerank" else found["data" if path == "/score" else "results"]
        name = "relevance_score" if path.startswith("/v") else "score"
        if path != "/score":
            assert rows == sorted(rows, key=lambda row: (-row[name], row["index"]))
        by_index = {row["index"]: row[name] for row in rows}
        return [by_index[index] for index in range(len(texts))]

    return scores


@pytest.mark.parametrize("path", PATHS)
def test_equal_documents_have_equal_scores(served, reranker, path):
    texts = [*NINE[:3], NINE[0]]
    found = of_path(served, path)(texts)
    own = dict(reranker.rank(QUERY, texts))
    assert found == pytest.approx([own[index] for index in range(4)], abs=1e-5)
    assert found[0] == pytest.approx(found[3], abs=1e-5) and found[0] != pytest.approx(found[1], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
def test_a_thousand_equal_documents_have_the_score_of_one(served, path):
    ask = of_path(served, path)
    [alone] = ask(["ice"])
    assert ask(["ice"] * 1000) == pytest.approx([alone] * 1000, abs=1e-5)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("empty", ["", " \n"])
def test_an_empty_document_among_ten_changes_no_other_score(served, path, empty):
    ask = of_path(served, path)
    alone, found = ask(NINE), ask([*NINE[:4], empty, *NINE[4:]])
    assert [*found[:4], *found[5:]] == pytest.approx(alone, abs=1e-5)
    assert math.isfinite(found[4]) and abs(found[4]) < 1  # a random model's log-odds, and no rank


@pytest.mark.parametrize("path", PATHS)
def test_megabytes_are_cut_and_change_no_other_score(served, path):
    ask = of_path(served, path)
    found = ask([MEGABYTE, NINE[0], MEGABYTE])
    assert found[1] == pytest.approx(ask(NINE[:1])[0], abs=1e-5)
    assert found[0] == pytest.approx(found[2], abs=1e-5) and abs(found[0]) < 1
    # The beginning is what the model sees: its budget is 256 tokens.
    assert found[0] == pytest.approx(ask([MEGABYTE[:4000]])[0], abs=1e-5)


@pytest.mark.parametrize("path", PATHS)
def test_points_stay_points(path):
    """Of a graded model: the number of words, up to 3; ranks of a thousand would go up to 1,000."""
    model = scripted(PointwiseGraded(), lambda prompt: str(min(len(shown(prompt)[0].split()), 3)))
    with client(model) as http:
        found = of_path(http, path)(["a b", "", "a b", *["a"] * 997])
    assert found == [2.0, 0.0, 2.0, *[1.0] * 997]
