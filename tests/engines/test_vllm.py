"""The vLLM engine agrees with the transformers engine.

vLLM runs in a process of its own, because it takes hold of torch's threads and of the random seeds.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from rl_rerank.config import EngineConfig, ModelConfig
from rl_rerank.engines.build import build_engine
from rl_rerank.prompts.constraints import Permutation, Scores
from rl_rerank.types import Message, Prompt, Sampling, Segment

pytestmark = [pytest.mark.engine, pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vllm")]

TEXTS = ["Is the passage relevant?", "Answer yes or no.", "Rank the passages by relevance to the query. " * 4, "no"]
ONE_TOKEN = ["yes", "no"]
LONGER = ["no", "yes [2] > [1]"]

SCRIPT = """
import json, sys
sys.path.insert(0, sys.argv[2])
from test_vllm import answers
print(json.dumps(answers("vllm", sys.argv[1])))
"""


def ask(text: str) -> Prompt:
    return Prompt("q", ("d",), (Message("system", (Segment("Rank."),)), Message("user", (Segment(text),))))


def answers(kind: str, folder: str) -> dict:
    model = ModelConfig(path=folder, max_prompt_tokens=512)
    args = {"max_num_batched_tokens": 2048} if kind == "vllm" else {}
    engine = build_engine(EngineConfig(kind=kind, args=args), model, Path(folder))
    prompts = [ask(text) for text in TEXTS]
    found = {
        "one_token": [c.continuations for c in engine.score(prompts, ONE_TOKEN)],
        "longer": [c.continuations for c in engine.score(prompts, LONGER)],
        "greedy": [asdict(c) for [c] in engine.generate(prompts, Sampling(8))],
    }
    held = [replace(prompts[0], constraint=Permutation(12)), replace(prompts[1], constraint=Scores(3, 10)), prompts[2]]
    found["held"] = [asdict(c) for [c] in engine.generate(held, Sampling(120))]
    drawn = engine.generate(held[:2], Sampling(120, temperature=2.0, num_generations=4, seed=1))
    found["drawn"] = [[c.text for c in row] for row in drawn]
    told: list[list[int]] = []
    drawn = Sampling(6, temperature=1.0, num_generations=3, seed=5)
    sampled = engine.generate(prompts[:1] * 2, drawn, lambda place, sample, _: told.append([place, sample]))
    [[third]] = engine.generate(prompts[:1], replace(drawn, num_generations=1, first=2))
    found |= {"sampled": [[asdict(c) for c in row] for row in sampled], "third": asdict(third), "told": told}
    # More tokens than vLLM takes at once: on CPUs a seeded sample of a prompt that is cut in two would end the engine.
    many = [ask(f"{i}. {TEXTS[2] * 3}") for i in range(24)]
    assert sum(len(engine.render(prompt)) for prompt in many) > 2048
    found["many"] = [c.text for [c] in engine.generate(many, Sampling(2, temperature=1.0, seed=1))]
    with pytest.raises(ValueError, match="do not fit"):
        engine.generate(prompts, Sampling(10**6))
    engine.close()
    return json.loads(json.dumps(found))


def answers_of_vllm(folder: Path) -> dict:
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", **os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", SCRIPT, str(folder), str(Path(__file__).parent)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads(ended.stdout.splitlines()[-1])


def test_vllm_agrees_with_transformers(tiny_model_dir):
    vllm, hf = answers_of_vllm(tiny_model_dir), answers("hf", str(tiny_model_dir))
    for name in ("one_token", "longer"):
        for a, b in zip(vllm[name], hf[name], strict=True):
            # The same log-probabilities under the whole vocabulary, not only the same differences.
            assert a == pytest.approx(b, abs=1e-3)
    for name in ("greedy", "held"):
        for a, b in zip(vllm[name], hf[name], strict=True):
            assert a.pop("logprobs") == pytest.approx(b.pop("logprobs"), abs=1e-3)
            assert a == b
    # A random model, held to a form, writes in it; what is not held is as it was.
    assert vllm["held"][2]["token_ids"][:8] == vllm["greedy"][2]["token_ids"]
    for found in (vllm, hf):
        [permutation, scores, _] = [c["text"] for c in found["held"]]
        assert all(Permutation(12).is_whole(text) for text in [permutation, *found["drawn"][0]])
        assert all(Scores(3, 10).is_whole(text) for text in [scores, *found["drawn"][1]])
        assert len(set(found["drawn"][0])) > 1
    for row in vllm["sampled"]:
        assert len({tuple(c["token_ids"]) for c in row}) == 3
        assert all(len(c["logprobs"]) == len(c["token_ids"]) and max(c["logprobs"]) <= 0 for c in row)
    # One prompt asked twice is drawn twice, and its third sample is the same when it is asked for alone.
    assert vllm["sampled"][0] != vllm["sampled"][1]
    assert vllm["third"]["token_ids"] == vllm["sampled"][0][2]["token_ids"]
    assert len(vllm["many"]) == len(hf["many"]) == 24
    assert vllm["told"] == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
