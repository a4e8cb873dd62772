"""A vLLM server gives what the transformers engine gives: the same token ids go out, and the same numbers come back."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rl_rerank.config import EngineConfig, ModelConfig
from rl_rerank.engines.base import Capability, Engine
from rl_rerank.engines.build import build_engine
from rl_rerank.engines.local.tokenizer import renderer
from rl_rerank.engines.served.kinds import OpenAI
from rl_rerank.engines.served.openai import OpenAIEngine
from rl_rerank.prompts.constraints import Permutation, Score, Scores
from rl_rerank.types import Message, Prompt, Sampling, Segment

pytestmark = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vllm")

TEXTS = ["Is the passage relevant?", "Answer yes or no.", "Rank the passages by relevance to the query. " * 4, "no"]
PROMPTS = [
    Prompt("q", ("d",), (Message("system", (Segment("Rank."),)), Message("user", (Segment(text),)))) for text in TEXTS
]


@pytest.fixture(scope="module")
def server(tiny_model_dir: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(tiny_model_dir)]
    command += ["--logits-processors", "rl_rerank.engines.local.vllm_mask:Hold"]
    command += ["--served-model-name", "tiny", "--dtype", "float32", "--enforce-eager", "--max-model-len", "1024"]
    quiet = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    log = tiny_model_dir.parent / "vllm.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", port], env={**os.environ, **quiet}, stdout=output, stderr=output
        )
    try:
        for _ in range(900):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", int(port))) == 0:
                    break
            assert process.poll() is None, log.read_text()[-3000:]
            time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def served(server: str, tiny_model_dir: Path) -> OpenAIEngine:
    model = ModelConfig(path=str(tiny_model_dir), max_prompt_tokens=512)
    return OpenAIEngine(OpenAI(model="tiny", base_url=server), model, renderer(model, tiny_model_dir))


@pytest.fixture(scope="module")
def local(tiny_model_dir: Path) -> Engine:
    return build_engine(EngineConfig(), ModelConfig(path=str(tiny_model_dir), max_prompt_tokens=512), tiny_model_dir)


def test_log_probabilities_of_given_tokens_are_those_of_the_whole_vocabulary(served: OpenAIEngine, local: Engine):
    assert served.capabilities == {Capability.score, Capability.logprobs, Capability.constraint}
    for a, b in zip(served.score(PROMPTS, ["yes", "no"]), local.score(PROMPTS, ["yes", "no"]), strict=True):
        assert a.continuations == pytest.approx(b.continuations, abs=1e-3)
        assert (a.text, a.finish_reason) == (b.text, b.finish_reason)


def test_greedy_answers_are_the_same_tokens_with_the_same_log_probabilities(served: OpenAIEngine, local: Engine):
    for [a], [b] in zip(served.generate(PROMPTS, Sampling(8)), local.generate(PROMPTS, Sampling(8)), strict=True):
        assert (a.token_ids, a.text, a.finish_reason) == (b.token_ids, b.text, b.finish_reason)
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-3)


def test_answers_are_held_to_the_same_form(served: OpenAIEngine, local: Engine):
    forms = [Permutation(12), Scores(3, 10), Score(10), None]
    held = [replace(prompt, constraint=form) for prompt, form in zip(PROMPTS, forms, strict=True)]
    answers = served.generate(held, Sampling(120))
    for [a], [b], form in zip(answers, local.generate(held, Sampling(120)), forms, strict=True):
        assert form is None or form.is_whole(a.text)
        assert (a.token_ids, a.text, a.finish_reason) == (b.token_ids, b.text, b.finish_reason)
    for row in served.generate(held[:2], Sampling(120, temperature=2.0, num_generations=3, seed=1)):
        assert len({c.text for c in row}) == 3


def test_a_form_that_the_server_does_not_know_is_refused_and_does_not_end_it(served: OpenAIEngine):
    class Unknown(Permutation):
        pass

    with pytest.raises(ValueError, match="must be a list of a form's name"):
        served.generate([replace(PROMPTS[0], constraint=Unknown(3))], Sampling(8))
    assert served.generate(PROMPTS[:1], Sampling(8))


def test_samples_differ_and_are_the_same_when_they_are_asked_for_again(served: OpenAIEngine):
    sampling = Sampling(6, temperature=1.0, num_generations=3, seed=5)
    [first], [again] = served.generate(PROMPTS[:1], sampling), served.generate(PROMPTS[:1], sampling)
    assert len({c.token_ids for c in first}) == 3
    assert [c.token_ids for c in first] == [c.token_ids for c in again]


def test_without_the_tokenizer_it_is_sent_messages(server: str):
    served = OpenAIEngine(OpenAI(model="tiny", base_url=server), ModelConfig(max_prompt_tokens=512))
    answers = served.generate(PROMPTS, Sampling(8))
    assert len(answers) == len(PROMPTS)
    assert served.capabilities == frozenset()
    assert served.usage["calls"] == len(PROMPTS)
