"""One vLLM server, asked by the engine `openai` and by rollouts: the same token ids, the same answers as transformers.

What imports vLLM is imported within a test: runs that leave these tests out read the file, too.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from support import vllm_server
from transformers import AutoModelForCausalLM

from rl_rerank.config import EngineConfig, ModelConfig
from rl_rerank.engines.base import Capability, Engine
from rl_rerank.engines.build import build_engine
from rl_rerank.engines.local.tokenizer import renderer
from rl_rerank.engines.served.kinds import OpenAI
from rl_rerank.engines.served.openai import OpenAIEngine
from rl_rerank.prompts.constraints import Permutation, Score, Scores
from rl_rerank.types import Message, Prompt, Sampling, Segment

pytestmark = [pytest.mark.engine, pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vllm")]

TEXTS = ["Is the passage relevant?", "Answer yes or no.", "Rank the passages by relevance to the query. " * 4, "no"]
PROMPTS = [
    Prompt("q", ("d",), (Message("system", (Segment("Rank."),)), Message("user", (Segment(text),)))) for text in TEXTS
]


@pytest.fixture(scope="module")
def server(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with vllm_server.serving(tiny_model_dir, tmp_path_factory.mktemp("server") / "log.txt") as address:
        yield address


def settings(address: str) -> OpenAI:
    return OpenAI(model=vllm_server.NAME, base_url=f"{address}/v1")


@pytest.fixture(scope="module")
def served(server: str, tiny_model_dir: Path) -> OpenAIEngine:
    model = ModelConfig(path=str(tiny_model_dir), max_prompt_tokens=512)
    return OpenAIEngine(settings(server), model, renderer(model, tiny_model_dir))


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
    served = OpenAIEngine(settings(server), ModelConfig(max_prompt_tokens=512))
    answers = served.generate(PROMPTS, Sampling(8))
    assert len(answers) == len(PROMPTS)
    assert served.capabilities == {Capability.images}
    assert served.usage["calls"] == len(PROMPTS)


def test_a_server_answers_each_prompt_once_a_group_with_the_log_probabilities_of_the_policy(
    server, tiny_model_dir, chatml_tokenizer, monkeypatch
):
    from rl_rerank.training.grpo import vllm_rollout

    client = vllm_rollout.vllm_generation.VLLMClient
    monkeypatch.setattr(client, "init_communicator", lambda self, device: None)  # it needs CUDA
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    engine = vllm_rollout.RolloutEngine(
        model=model,
        accelerator=Accelerator(cpu=True),
        processing_class=chatml_tokenizer,
        mode="server",
        server_base_url=server,
        temperature=0.7,
        max_completion_length=5,
        generation_kwargs={"stop_token_ids": [7]},
    )
    asked = []
    generate = engine.vllm_client.generate
    monkeypatch.setattr(engine.vllm_client, "generate", lambda **kw: asked.append(kw["prompts"]) or generate(**kw))
    prompts = [[20, 21, 22], [30, 31, 32, 33]]
    rows = [ids for ids in prompts for _ in range(3)]
    _, completions, log_probs, _ = engine.generate(rows, None, num_generations=3)
    assert asked == [prompts]
    assert len(completions) == 6
    for ids, found, values in zip(rows, completions, log_probs, strict=True):
        assert 1 <= len(found) <= 5
        with torch.no_grad():
            logits = model(torch.tensor([[*ids, *found]])).logits[0, len(ids) - 1 : -1] / 0.7
        expected = torch.log_softmax(logits, -1).gather(-1, torch.tensor(found)[:, None])[:, 0]
        assert torch.allclose(torch.tensor(values)[:, 0], expected, atol=1e-4)
