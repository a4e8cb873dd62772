"""Clients as they are installed, against the server in a thread of this process."""

from __future__ import annotations

import json
import shutil
import subprocess

import cohere
import pytest

pytest.importorskip("uvicorn", reason="the extra serve has it")
from support.served import by_length, listening

from rl_rerank.paradigms.pointwise import Pointwise

pytestmark = pytest.mark.slow  # the packages take seconds to import

KEY = "a-key-of-the-test"


@pytest.fixture(scope="module")
def url():
    with listening(by_length(Pointwise()), name="lengths", key=KEY) as found:
        yield found


TEXTS = ["a", "abc", "ab"]
BODY = {"model": "lengths", "query": "q", "documents": ["a", "abc"]}


def test_openais_client_lists_the_model_and_posts(url):
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["lengths"]
        found = client.post("/rerank", body=BODY, cast_to=object)
        assert [r["index"] for r in found["results"]] == [1, 0]
        with pytest.raises(openai.UnprocessableEntityError, match="documents is empty"):
            client.post("/rerank", body={**BODY, "documents": []}, cast_to=object)
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError, match="needs its key"),
    ):
        client.models.list()


def test_the_hubs_session_posts_to_the_path_of_tei(url):
    hub = pytest.importorskip("huggingface_hub")
    session = hub.get_session()
    headers = hub.utils.build_hf_headers(token=KEY)
    body = {"query": "q", "texts": ["a", "abc"], "raw_scores": True}
    response = session.post(f"{url}/rerank", json=body, headers=headers)
    assert response.json() == [{"index": 1, "score": 3.0}, {"index": 0, "score": 1.0}]


@pytest.mark.parametrize("version", ["Client", "ClientV2"])
def test_coheres_client_ranks(url, version):
    client = getattr(cohere, version)(api_key=KEY, base_url=url)
    found = client.rerank(model="lengths", query="q", documents=["a", "abc", "ab"], top_n=2)
    assert [(r.index, r.relevance_score) for r in found.results] == [(1, 3.0), (2, 2.0)]
    assert found.meta.api_version.version == ("1" if version == "Client" else "2")
    with pytest.raises(cohere.errors.UnprocessableEntityError, match="documents is empty"):
        client.rerank(model="lengths", query="q", documents=[])


def test_coheres_client_reads_documents_as_objects(url):
    client = cohere.Client(api_key=KEY, base_url=url)
    documents = [{"text": "a"}, {"text": "abc", "title": "t"}]
    found = client.rerank(model="lengths", query="q", documents=documents, return_documents=True, rank_fields=["text"])
    assert [r.document.text for r in found.results] == ["abc", "a"]


def test_curl_ranks_with_the_command_of_the_documentation(url):
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    command = [curl, "-sS", f"{url}/v1/rerank", "-H", "Content-Type: application/json", "-d", json.dumps(BODY)]
    found = subprocess.run([*command, "-H", f"Authorization: Bearer {KEY}"], capture_output=True, check=True).stdout
    assert [(r["index"], r["relevance_score"]) for r in json.loads(found)["results"]] == [(1, 3.0), (0, 1.0)]
    refused = subprocess.run(command, capture_output=True, check=True).stdout
    assert "needs its key" in json.loads(refused)["message"]


def test_langchains_cohere_rerank_ranks(url):
    langchain = pytest.importorskip("langchain_cohere", reason="pip install langchain-cohere")
    from langchain_core.documents import Document

    compressor = langchain.CohereRerank(cohere_api_key=KEY, base_url=url, model="lengths", top_n=2)
    found = compressor.compress_documents([Document(text) for text in TEXTS], "q")
    assert [(d.page_content, d.metadata["relevance_score"]) for d in found] == [("abc", 3.0), ("ab", 2.0)]


@pytest.mark.parametrize("name", ["cohere", "jinaai", "tei"])
def test_llama_indexs_rerankers_rank(url, name):
    module = pytest.importorskip(
        f"llama_index.postprocessor.{name}_rerank", reason=f"pip install llama-index-postprocessor-{name}-rerank"
    )
    from llama_index.core.schema import NodeWithScore, TextNode

    made = {
        "cohere": lambda: module.CohereRerank(api_key=KEY, base_url=url, model="lengths", top_n=2),
        "jinaai": lambda: module.JinaRerank(api_key=KEY, base_url=f"{url}/v1", model="lengths", top_n=2),
        "tei": lambda: module.TextEmbeddingInference(auth_token=f"Bearer {KEY}", base_url=url, top_n=2),
    }[name]()
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in TEXTS]
    found = made.postprocess_nodes(nodes, query_str="q")
    # TEI gives probabilities: the logistic function of 3 and of 2.
    scores = [0.9525741, 0.8807971] if name == "tei" else [3.0, 2.0]
    assert [n.node.get_content() for n in found] == ["abc", "ab"]
    assert [n.score for n in found] == pytest.approx(scores, abs=1e-6)
