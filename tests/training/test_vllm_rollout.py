"""vLLM rollouts on the CPU build: the engine must hold the policy's current weights, and a stale one stops the run.

What imports vLLM is imported within the tests: these files are read by runs that leave them out, too.
"""

import hashlib
import importlib.util
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model
from support.launching import two_processes
from transformers import AutoModelForCausalLM

# sha256 of the methods' sources in trl 1.16.0. A difference means: read trl's change, adapt the override, then update.
WRITTEN_AGAINST = {
    "_init_vllm": "0e584002e0f6a9c0",
    "_iter_named_params": "baab615d5c7bc3e1",
    "generate": "2d2ac2be5b1309c4",
    "sync_weights": "63d669fb32304ff5",
}
SCRIPT = str(Path(__file__).parents[1] / "support/perturbed_rollouts.py")

pytestmark = pytest.mark.engine

needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")


def test_the_methods_that_we_lean_on_are_those_of_the_trl_that_we_read():
    from rl_rerank.training.grpo import vllm_rollout

    assert set(vllm_rollout.OVERRIDES) == set(WRITTEN_AGAINST)
    for name, expected in WRITTEN_AGAINST.items():
        source = inspect.getsource(getattr(vllm_rollout.vllm_generation.VLLMGeneration, name))
        found = hashlib.sha256(source.encode()).hexdigest()[:16]
        assert found == expected, f"trl's VLLMGeneration.{name} is not the one that RolloutEngine was written against"


@pytest.fixture(scope="module")
def model_dirs(tiny_model_dir, chatml_tokenizer, tmp_path_factory):
    """The tiny model, whose head is tied to its embedding, and the same with a head of its own."""
    untied = tmp_path_factory.mktemp("models") / "untied"
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = type(model.lm_head.weight)(model.lm_head.weight.detach().flip(0).clone())
    model.save_pretrained(untied)
    chatml_tokenizer.save_pretrained(untied)
    return [str(tiny_model_dir), str(untied)]


@needs_vllm
@pytest.mark.parametrize("processes", ["one process", "zero3 on two"])
def test_vllm_holds_the_weights_after_a_large_change_and_a_stale_head_stops_the_run(model_dirs, tmp_path, processes):
    asked = [f"{model}={trained}" for model in model_dirs for trained in ("full", "lora")]
    launch = [sys.executable]
    if processes == "zero3 on two":  # each head and each way to train once: every engine takes its time to start
        launch, asked = two_processes("zero3"), [asked[0], asked[3]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, SCRIPT, str(tmp_path), *asked], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    results = [json.loads(path.read_text()) for path in tmp_path.glob("found*.json")]
    assert len(results) == (1 if processes == "one process" else 2)
    for found in results:
        stale = found.pop("stale head")
        assert list(found) == [f"{Path(one.split('=')[0]).name}-{one.split('=')[1]}" for one in asked]
        for values in found.values():
            assert values["moved"] > 0.5  # nats, of the trainer's own log-probabilities
            assert len(values["gaps"]) == 2 and max(values["gaps"]) < 1e-4
            assert values["old"] == 0  # no forward but the update's: it is on its policy
        assert "step 2: vLLM's log-probabilities of the tokens that it sampled are" in stale["refused"]
        assert "more than max_logprob_gap=0.1: it does not hold the policy's weights" in stale["refused"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_300_syncs_of_a_moving_adapter_change_no_bit_of_its_base(tiny_model_dir, dtype):
    from rl_rerank.training.grpo.vllm_rollout import RolloutEngine, vllm_generation

    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=dtype)
    names = [name for name, _ in base.named_parameters()]
    torch.manual_seed(0)
    policy = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    engine = RolloutEngine.__new__(RolloutEngine)  # without an LLM
    engine.model, accelerator = policy, Accelerator(cpu=True)
    engine._dist = vllm_generation.DistributedBackend(accelerator)
    frozen = {name: w.detach().clone() for name, w in policy.named_parameters() if not w.requires_grad}
    trained = [weight for weight in policy.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    synced = {}
    for _ in range(300):
        for weight in trained:
            weight.grad = torch.randn_like(weight)
        optimizer.step()
        synced = dict(engine._iter_named_params())
    assert len(frozen) == len(names) == len(synced)
    assert all(torch.equal(policy.get_parameter(name), weight) for name, weight in frozen.items())
    # The last sync carried the adapter, in the dtypes and under the names that the engine's own model has.
    assert list(synced) == names
    for name, weight in synced.items():
        assert weight.dtype is dtype
        module = policy.get_base_model().get_submodule(name.rpartition(".")[0])
        if hasattr(module, "lora_A"):
            # scale = alpha / r = 8 / 4
            update = 2.0 * module.lora_B["default"].weight @ module.lora_A["default"].weight
            assert torch.equal(weight, (module.base_layer.weight.float() + update).to(dtype))
            assert update.abs().max() > 1e-2


def test_an_adapter_is_refused_where_fsdp_shards_its_base(tiny_model_dir):
    from rl_rerank.training.grpo.vllm_rollout import RolloutEngine, vllm_generation

    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    engine = RolloutEngine.__new__(RolloutEngine)
    engine.model = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj"]))
    engine._dist = vllm_generation.DistributedBackend(Accelerator(cpu=True))
    engine._dist.fsdp_version = 2
    with pytest.raises(ValueError, match="an adapter cannot be sent to vLLM where FSDP shards its base; set launcher"):
        next(engine._iter_named_params())


@needs_vllm
@pytest.mark.parametrize(("head", "trained", "dtype"), [(0, "full", "float32"), (1, "lora", "bfloat16")])
def test_one_value_that_differs_behind_a_sync_is_found_in_every_layer(model_dirs, tmp_path, head, trained, dtype):
    script = str(Path(SCRIPT).with_name("planted_syncs.py"))
    command = [sys.executable, script, str(tmp_path / "found.json"), model_dirs[head], trained, dtype]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found.pop("none") is None and found.pop("none, again") is None
    stale = found.pop("head not packed")
    if head == 0:  # the adapter does not change the other head
        assert "not hold the policy's weights after they were sent: lm_head.weight is another tensor" in stale
    names = [name for name, _ in AutoModelForCausalLM.from_pretrained(model_dirs[head]).named_parameters()]
    assert list(found) == names
    kinds = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "embed_tokens", "norm"}
    assert kinds | ({"lm_head"} if head else set()) <= {name.split(".")[-2] for name in names}
    for name, sentence in found.items():
        assert f"after they were sent: {name} is another tensor (1 of " in sentence, name
