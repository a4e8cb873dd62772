"""Clients as they are installed, against the server in a thread of this process."""

from __future__ import annotations

import pytest

pytest.importorskip("uvicorn", reason="the extra serve has it")
from support.served import by_length, listening

from rl_rerank.paradigms.pointwise import Pointwise

KEY = "a-key-of-the-test"


@pytest.fixture(scope="module")
def url():
    with listening(by_length(Pointwise()), name="lengths", key=KEY) as found:
        yield found


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
    cohere = pytest.importorskip("cohere", reason="no extra has it: pip install cohere")
    client = getattr(cohere, version)(api_key=KEY, base_url=url)
    found = client.rerank(model="lengths", query="q", documents=["a", "abc", "ab"], top_n=2)
    assert [(r.index, r.relevance_score) for r in found.results] == [(1, 3.0), (2, 2.0)]
    assert found.meta.api_version.version == ("1" if version == "Client" else "2")
    with pytest.raises(cohere.errors.UnprocessableEntityError, match="documents is empty"):
        client.rerank(model="lengths", query="q", documents=[])


def test_coheres_client_reads_documents_as_objects(url):
    cohere = pytest.importorskip("cohere", reason="no extra has it: pip install cohere")
    client = cohere.Client(api_key=KEY, base_url=url)
    documents = [{"text": "a"}, {"text": "abc", "title": "t"}]
    found = client.rerank(model="lengths", query="q", documents=documents, return_documents=True, rank_fields=["text"])
    assert [r.document.text for r in found.results] == ["abc", "a"]
