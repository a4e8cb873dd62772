"""Servers and classifiers over an exported folder are compared with its contract, without vLLM."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import small_tokenizers as small
from support.exported import export, with_tokenizer
from support.served import listening
from tokenizers.processors import TemplateProcessing

from rl_rerank.cli.main import main
from rl_rerank.paradigms.build import make
from rl_rerank.serving import Reranker, contract, sequence_classification, verify
from rl_rerank.serving.doors.opening import opened
from rl_rerank.serving.doors.pairs import PairPrompts
from rl_rerank.serving.vllm_pairs import SCORE_TEMPLATE

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def exported(tiny_model_dir, tmp_path_factory):
    folder = export(tiny_model_dir, tmp_path_factory.mktemp("exported") / "model", make("pointwise", {}))
    terms = contract.read(folder)
    sequence_classification.write(folder, terms)
    contract.write(folder, terms)
    return folder


@pytest.fixture
def folder(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "model")


def problems(folder, target) -> str:
    [verdict] = verify.verify(folder, [target])
    return " | ".join(verdict.problems)


def add_noise(path) -> None:
    weights = load_file(path)
    noise = torch.randn(weights["model.norm.weight"].shape, generator=torch.Generator().manual_seed(0))
    save_file(weights | {"model.norm.weight": weights["model.norm.weight"] + noise}, path, {"format": "pt"})


@pytest.mark.parametrize("paradigm", ["pointwise", "listwise", "first_token"])
def test_a_server_at_an_address_is_compared(tiny_model_dir, tmp_path, capsys, paradigm):
    folder = export(tiny_model_dir, tmp_path / "model", make(paradigm, {}))
    with listening(Reranker.load(folder)) as address:
        assert main(["verify", f"model={folder}", f"targets=[{address}]"]) == 0
        assert f"{address}: 5 golden scores are within" in capsys.readouterr().out
        add_noise(folder / "model.safetensors")
        folder = export(folder, tmp_path / "other", make(paradigm, {}))
        # A random listwise model may write no order before and after the change; the others give scores.
        if paradigm != "listwise":
            assert main(["verify", f"model={folder}", f"targets=[{address}]"]) == 1
            assert "document" in capsys.readouterr().out


@contextmanager
def answering(status: int, body: object) -> Iterator[str]:
    """The address of a server that always answers the same."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def results(scores) -> dict:
    return {"results": [{"index": i, "relevance_score": score} for i, score in enumerate(scores)]}


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, {"message": "the key sesame is wrong"}, 'answers 401: {"message": "the key *** is wrong"}'),
        (200, b"<html>", "answers with no JSON"),
        (200, {"data": []}, "answers without results"),
        (200, results([1.0]), "answers with 1 results for 3 documents"),
    ],
)
def test_a_server_that_answers_something_else_is_named(folder, monkeypatch, status, body, said):
    monkeypatch.setenv("RL_RERANK_API_KEY", "sesame")
    with answering(status, body) as address:
        assert said in problems(folder, address)


def test_a_server_that_gives_probabilities_is_named(folder):
    scores = torch.tensor(contract.read(folder).golden[0].scores).sigmoid().tolist()
    with answering(200, results(scores)) as address:
        assert "(it is the sigmoid of that); the order is the same" in problems(folder, address)


def test_an_address_where_nothing_listens_is_named(folder):
    assert "http://127.0.0.1:9/v1/rerank is out of reach" in problems(folder, "http://127.0.0.1:9")


@pytest.mark.slow
def test_our_server_is_started_and_compared(exported):
    assert problems(exported, "server") == ""


def test_a_server_that_does_not_start_is_named(folder):
    (folder / "model.safetensors").write_bytes(b"no weights")
    assert "its server did not start: " in problems(folder, "server")


def test_a_classifier_gives_the_scores_of_the_export(exported, folder, capsys):
    assert main(["verify", f"model={exported}", "targets=[seqcls]"]) == 0
    assert "seqcls: 5 golden scores are within" in capsys.readouterr().out
    documents = ["ice caves", "bread is baked", "ice caves"]
    ranked = dict(Reranker.load(exported).rank("caves", documents))
    entry = contract.GoldenScores(query="caves", documents=documents, scores=[])
    found = opened(exported, contract.read(exported), "seqcls", False).answer(entry).scores
    assert found == pytest.approx([ranked[i] for i in range(3)], abs=1e-4)
    add_noise(folder / "sequence_classification/model.safetensors")
    said = problems(folder, "seqcls")
    assert "the score is" in said
    assert "weights are not those of the export: sequence_classification/model.safetensors has changed" in said


def test_a_classifier_with_another_template_or_another_head_is_found(folder):
    inner = folder / "sequence_classification"
    template = inner / "chat_template.jinja"
    template.write_text(template.read_text().replace("Query: ", "Question: "))
    assert "the template's text differs from character" in problems(folder, "seqcls")
    (inner / "config.json").unlink()
    assert "does not load or rank" in problems(folder, "seqcls")
    shutil.rmtree(inner)
    assert "export with stages.NAME.sequence_classification=true" in problems(folder, "seqcls")


@pytest.mark.parametrize(
    ("paradigm", "dtype", "said"),
    [
        ("listwise", "float32", "no weights of a sequence classifier for this model: CrossEncoder cannot rank"),
        ("pointwise", "bfloat16", "in bfloat16 rounds its scores to that type, so that documents share them"),
    ],
)
def test_a_classifier_that_cannot_be_is_refused(tiny_model_dir, tmp_path, paradigm, dtype, said):
    folder = export(tiny_model_dir, tmp_path / "model", make(paradigm, {}), dtype=dtype)
    with pytest.raises(ValueError, match=said):
        sequence_classification.write(folder, contract.read(folder))


@pytest.mark.parametrize("adds", [False, True])
def test_vllms_template_has_one_begin_token_whoever_writes_it(tiny_model_dir, tmp_path, adds):
    """vLLM tokenises a rendered pair with special tokens: of Llama 3, a begin token, which its template writes too."""
    tokenizer = small.build(
        ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        small.LLAMA32,
        "<|eot_id|>",
        "<|end_of_text|>",
    )
    tokenizer.bos_token = "<|begin_of_text|>"
    if adds:
        begin = ("<|begin_of_text|>", tokenizer.bos_token_id)
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{begin[0]} $A", special_tokens=[begin])
    source = with_tokenizer(tiny_model_dir, tmp_path / "source", tokenizer)
    folder = export(source, tmp_path / "model", make("pointwise", {}))
    for then in contract.read(folder).golden:
        shown = PairPrompts(folder, False, folder / SCORE_TEMPLATE)(then.query, then.documents)
        assert [(p.text, p.token_ids) for p in shown] == [(p.text, p.token_ids) for p in then.prompts]


def test_vllms_scores_of_pairs_are_refused_where_the_folder_claims_none(tiny_model_dir, tmp_path):
    pytest.importorskip("vllm")
    folder = export(tiny_model_dir, tmp_path / "model", make("listwise", {}))
    assert "the contract claims no scores of pairs by the folder's chat template" in problems(folder, "vllm_score")
