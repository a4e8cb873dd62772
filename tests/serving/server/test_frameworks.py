"""Adapters for other frameworks, by the packages themselves: the examples of docs/serving.md, and the rest."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="the extra serve has it")
from support.served import by_length, listening

from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.serving import Client

pytestmark = pytest.mark.slow  # the packages take seconds to import

os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")

PAGE = (Path(__file__).parents[3] / "docs/serving.md").read_text(encoding="utf-8")
ADDRESS = "http://localhost:8000"
NAMES = {"langchain", "llama_index", "haystack", "pyterrier"}
QUERY, TEXTS = "how are glacier caves formed?", ["ice", "a glacier cave forms in ice", "ice caves", ""]
BEST, SCORES = [TEXTS[1], TEXTS[2]], [27.0, 9.0]  # scores are the lengths of documents


@pytest.fixture(scope="module")
def url():
    with listening(by_length(Pointwise()), name="lengths") as found:
        yield found


def example(name: str) -> str:
    """The code of the page that uses an adapter."""
    [code] = [code for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if f"adapters.{name} " in code]
    assert ADDRESS in code
    return code


def run(name: str, url: str):
    names = {"query": QUERY, "texts": TEXTS}
    exec(compile(example(name).replace(ADDRESS, url), f"docs/serving.md, {name}", "exec"), names)
    return names["best"]


def test_langchain(url):
    best = run("langchain", url)
    assert [d.page_content for d in best] == BEST
    assert [d.metadata["relevance_score"] for d in best] == SCORES


def test_llama_index(url):
    pytest.importorskip("llama_index", reason="pip install llama-index-core")
    best = run("llama_index", url)
    assert [n.node.get_content() for n in best] == BEST
    assert [n.score for n in best] == SCORES


def test_haystack(url):
    best = run("haystack", url)
    assert [d.content for d in best] == BEST
    assert [d.score for d in best] == SCORES


def test_pyterrier(url):
    pytest.importorskip("pyterrier", reason="pip install python-terrier")
    best = run("pyterrier", url)
    assert best["text"].tolist() == BEST
    assert best["score"].tolist() == SCORES
    assert best["rank"].tolist() == [0, 1]


def test_every_adapter_has_an_example():
    folder = Path(__file__).parents[3] / "rl_rerank/serving/adapters"
    assert {path.stem for path in folder.glob("*.py")} - {"__init__"} == NAMES
    assert set(re.findall(r"rl_rerank\.serving\.adapters\.(\w+) ", PAGE)) == NAMES


def test_a_langchain_document_keeps_its_metadata_and_shows_its_title(url):
    from langchain_core import documents

    from rl_rerank.serving.adapters.langchain import RerankerCompressor

    given = [documents.Document("abc", metadata={"title": "a title", "page": 3}), documents.Document("four", id="x")]
    compressor = RerankerCompressor(ranker=Client(url))
    best = compressor.compress_documents(given, QUERY)
    # "a title" and "abc" have ten letters together
    assert [d.metadata for d in best] == [
        {"title": "a title", "page": 3, "relevance_score": 10.0},
        {"relevance_score": 4.0},
    ]
    assert best[1].id == "x"
    assert given[1].metadata == {}
    assert compressor.compress_documents([], QUERY) == []


def test_a_definition_of_relevance_reaches_the_ranker():
    from langchain_core import documents

    from rl_rerank.serving.adapters.langchain import RerankerCompressor

    class Notes:
        def rank(self, query, documents, top_n=None, instruction=""):
            self.asked = query, documents, top_n, instruction
            return [(0, 1.0)]

    ranker = Notes()
    compressor = RerankerCompressor(ranker=ranker, top_n=1, instruction="only the moon")
    compressor.compress_documents([documents.Document("abc")], QUERY)
    assert ranker.asked == (QUERY, [{"text": "abc", "title": ""}], 1, "only the moon")


def test_llama_index_needs_a_query(url):
    pytest.importorskip("llama_index", reason="pip install llama-index-core")
    from llama_index.core.schema import NodeWithScore, TextNode

    from rl_rerank.serving.adapters.llama_index import RerankerPostprocessor

    postprocessor = RerankerPostprocessor(ranker=Client(url))
    with pytest.raises(ValueError, match="needs the query"):
        postprocessor.postprocess_nodes([NodeWithScore(node=TextNode(text="a"))])
    assert postprocessor.postprocess_nodes([], query_str=QUERY) == []


def test_pyterrier_orders_each_query_by_itself(url):
    pytest.importorskip("pyterrier", reason="pip install python-terrier")
    import pandas as pd

    from rl_rerank.serving.adapters.pyterrier import RerankerTransformer

    rows = [("2", "a", "xx"), ("1", "b", "x"), ("2", "c", "xxx"), ("1", "d", "xxxx")]
    given = pd.DataFrame([{"qid": q, "query": QUERY, "docno": d, "text": t} for q, d, t in rows])
    found = RerankerTransformer(Client(url))(given)
    assert found[["qid", "docno", "score", "rank"]].values.tolist() == [
        *(["2", "c", 3.0, 0], ["2", "a", 2.0, 1]),
        *(["1", "d", 4.0, 0], ["1", "b", 1.0, 1]),
    ]
    assert len(RerankerTransformer(Client(url)).transform(given.head(0))) == 0
    with pytest.raises(ValueError, match="needs the columns text"):
        RerankerTransformer(Client(url)).transform(given.drop(columns="text"))
