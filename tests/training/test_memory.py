"""The estimate of a training process's memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM

from rl_rerank.config import LoraConfig, ModelConfig
from rl_rerank.training.loop.micro_batches import WITHOUT_GRADIENTS
from rl_rerank.training.memory import activations, architecture, cards, estimate, state
from rl_rerank.training.memory.cards import Hardware
from rl_rerank.training.memory.setup import Colocated, Setup

B7 = ModelConfig(path="Qwen/Qwen2.5-7B-Instruct", dtype="bfloat16")
B7_WEIGHTS = 7_615_616_512
H100 = cards.parse("8xh100-80g")


def setup(model=B7, strategy="zero3", processes=8, lora=None, bf16=True, checkpointing=True, tokens=1000, **more):
    more = {"has_reference": False, **more}
    return Setup(model, strategy, processes, lora, bf16, checkpointing, tokens=tokens, **more)


def tiny(path, **more):
    return setup(ModelConfig(path=str(path)), "local", 1, **{"bf16": False, "checkpointing": False, **more})


@pytest.mark.parametrize(
    ("path", "published"),
    [
        ("smollm2", 134_515_008),
        ("Qwen/Qwen2.5-0.5B-Instruct", 494_032_768),
        ("Qwen/Qwen2.5-7B-Instruct", 7_615_616_512),
        ("Qwen/Qwen2.5-32B-Instruct", 32_763_876_352),
        ("Qwen/Qwen3-4B-Base", 4_022_468_096),
        ("Qwen/Qwen3-32B", 32_762_123_264),
    ],
)
def test_a_model_of_the_table_has_as_many_weights_as_its_card_says(path, published):
    assert activations.parameters(setup(ModelConfig(path=path))).total == published


def test_a_folder_on_this_machine_goes_before_the_table(tiny_model_dir, monkeypatch):
    monkeypatch.setattr(architecture.lengths, "local_folder", lambda model: tiny_model_dir)
    found = architecture.find(B7)
    assert found.source == str(tiny_model_dir) and found.config.hidden_size < 3584


def test_a_model_that_is_neither_here_nor_in_the_table_is_named():
    with pytest.raises(LookupError, match=r"'nobody/none' is not on this machine, and its shape is not in the table"):
        architecture.find(ModelConfig(path="nobody/none"))


def test_what_is_kept_is_what_autograd_saves_with_a_fused_kernel(tiny_model_dir):
    """PyTorch's flash attention on the CPU saves the same as any: query, key, value, output and sums."""
    config, tokens = architecture.find(ModelConfig(path=str(tiny_model_dir))).config, 300
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa").train()
    weights = {weight.untyped_storage()._cdata for weight in [*model.parameters(), *model.buffers()]}
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            saved[storage._cdata] = storage
        return tensor

    ids = torch.zeros(1, tokens, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    by_autograd = sum(storage.nbytes() for storage in saved.values())
    assert hidden.requires_grad
    # The rest is the result itself, which nothing saves, and positions.
    counted = activations.count(tiny(tiny_model_dir), tokens).kept
    assert counted == pytest.approx(by_autograd + hidden.nbytes, rel=0.01)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("lora", [None, LoraConfig(r=4, dropout=0.1)])
def test_tensors_without_data_count_as_those_with_data(tiny_model_dir, checkpointing, lora):
    made = tiny(tiny_model_dir, checkpointing=checkpointing, lora=lora, bf16=True)
    config = architecture.find(made.model).config
    counted = activations._run(config, made, 200)
    model = activations._build(config, made)
    torch.manual_seed(0)
    with_data = model._apply(
        lambda t: torch.randn(t.shape) if t.is_floating_point() else torch.zeros_like(t, device="cpu")
    )
    assert activations._measure(with_data, made, 200) == counted


@pytest.mark.parametrize("lora", [None, LoraConfig(r=4)])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("strategy", ["local", "zero3"])
def test_a_deep_model_is_counted_by_shallow_ones(lora, checkpointing, strategy, tmp_path):
    deep = activations._cut(architecture.find(ModelConfig(path="smollm2")).config, 6)
    deep.save_pretrained(tmp_path)
    model = ModelConfig(path=str(tmp_path), dtype="bfloat16")
    made = setup(model, strategy, lora=lora, checkpointing=checkpointing)
    assert activations.count(made, 4000) == activations._run(deep, made, 4000)


def test_checkpointing_keeps_the_inputs_of_layers():
    """28 layers x 11,000 tokens x 3,584 numbers x 2 bytes = 2.06 GiB; of one layer more, about 28th of all."""
    kept, whole = activations.count(setup(), 11_000), activations.count(setup(checkpointing=False), 11_000)
    assert kept.kept / 2**30 == pytest.approx(2.06, rel=0.2)
    assert whole.kept / 2**30 == pytest.approx(67, rel=0.05)
    assert kept.backward - kept.kept == pytest.approx(whole.kept / 28, rel=0.4)


def test_autocast_keeps_a_bfloat16_copy_of_every_weight_until_the_end_of_the_forward():
    made = setup(strategy="ddp")
    weights = activations.parameters(made)
    copies = 2 * (weights.total - weights.head - weights.embedding)  # neither is multiplied by in the layers
    found = activations.count(made, 1000)
    assert found.forward - found.kept == pytest.approx(copies, rel=0.05)


def without_gradients(made, tokens):
    """Bytes that a forward of the layers takes."""
    config = architecture.find(made.model).config

    def peak(layers):
        model = activations._build(activations._cut(config, layers), made)
        with FakeTensorMode():
            model = model._apply(lambda t: torch.empty(t.shape, dtype=t.dtype))
            ids = torch.zeros(1, tokens, dtype=torch.long)
            live = activations._Live([*model.parameters(), *model.buffers(), ids])
            with live, torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=made.autocasts):
                model.get_decoder()(input_ids=ids, position_ids=ids.clone(), use_cache=False)
        return live.peak

    two, three = peak(2), peak(3)
    return two + (three - two) * (config.num_hidden_layers - 2)


@pytest.mark.parametrize("strategy", ["zero3", "ddp"])
@pytest.mark.parametrize(
    "path",
    ["smollm2", *(f"Qwen/{name}" for name in ("Qwen2.5-0.5B-Instruct", "Qwen3-4B-Base", "Qwen2.5-7B-Instruct"))],
)
def test_the_larger_budget_without_gradients_takes_no_more_than_training(path, strategy):
    """With gradient checkpointing; without, training takes several times as much."""
    made, tokens = setup(ModelConfig(path=path, dtype="bfloat16"), strategy), 4096
    kept, forward, backward = activations.count(made, tokens)
    training = max(kept + state.head(made, activations.parameters(made)), forward, backward)
    assert without_gradients(made, WITHOUT_GRADIENTS * tokens) <= training


def gib(made, hardware=H100, tokens=1000):
    return estimate.estimate(made, hardware, tokens).moments[estimate.TRAINING]


def test_zero_3_divides_everything():
    # 7.6156e9 weights: bf16 weights and gradients 2 bytes each, masters and AdamW 12, over 8 processes.
    parts = gib(setup(has_reference=True))
    assert parts["weights"] == parts["gradients"] == parts["reference model"] == 2 * B7_WEIGHTS / 8 / 2**30
    assert parts["optimizer"] == 12 * B7_WEIGHTS / 8 / 2**30
    # A bucket of 5e8 bf16 numbers and its copy, 1.05e9 gathered weights, 5e7 of which are copied to their places.
    assert parts["DeepSpeed's buffers"] == pytest.approx(2 * (2 * 5e8 + 1.05e9 + 5e7) / 2**30)


def test_ddp_divides_nothing_and_has_the_gradients_twice():
    parts = gib(setup(strategy="ddp", has_reference=True))
    assert parts["weights"] == parts["reference model"] == 4 * B7_WEIGHTS / 2**30
    assert parts["gradients"] == parts["optimizer"] == 8 * B7_WEIGHTS / 2**30


def test_adapters_have_gradients_and_states_and_frozen_weights_their_own_type():
    made = setup(strategy="ddp", lora=LoraConfig(r=16, target_modules=["q_proj", "v_proj"]))
    # A layer's q: 16 x (3,584 + 3,584), its v: 16 x (3,584 + 512); 28 layers.
    trained = 28 * 16 * (2 * 3584 + 3584 + 512)
    assert activations.parameters(made).trained == trained
    parts = gib(made)
    assert parts["weights"] == pytest.approx((2 * B7_WEIGHTS + 4 * trained) / 2**30)
    assert parts["gradients"] == parts["optimizer"] == pytest.approx(8 * trained / 2**30)


def test_float32_under_zero_has_masters_unless_weights_are_divided():
    float32 = replace(B7, dtype="float32")
    two, three = gib(setup(float32, "zero2", bf16=False)), gib(setup(float32, bf16=False))
    assert two["weights"] == 4 * B7_WEIGHTS / 2**30
    assert two["optimizer"] / three["optimizer"] == pytest.approx(12 / 8)


def test_offloading_leaves_buffers_and_activations_on_the_card():
    parts = gib(setup(strategy="zero3-offload"))
    assert parts.keys() == {"DeepSpeed's buffers", "activations", "head", "CUDA and fragments"}


def test_the_head_has_tiles_and_a_gradient_where_it_is_trained():
    full, adapted = setup(), setup(lora=LoraConfig())
    tiles = 2 * state.TILE
    assert state.head(adapted, activations.parameters(adapted)) == tiles
    assert state.head(full, activations.parameters(full)) == tiles + 4 * 152_064 * 3584


@pytest.mark.parametrize(("strategy", "bytes_each"), [("local", 2), ("zero2", 2), ("zero3", 2 / 8)])
def test_a_teacher_has_its_weights_and_no_gradients(strategy, bytes_each):
    alone = estimate.estimate(setup(strategy=strategy), H100, 1000)
    small = ModelConfig(path="Qwen/Qwen2.5-0.5B-Instruct", dtype="bfloat16")
    beside = estimate.estimate(setup(strategy=strategy, teacher=small), H100, 1000)
    for moment in alone.moments:
        more = beside.total(moment) - alone.total(moment)
        assert more == pytest.approx(494_032_768 * bytes_each / 2**30), moment


def test_vllm_has_its_share_unless_it_sleeps():
    awake, asleep = (setup(vllm=Colocated(0.3, 1, sleeps, 4096)) for sleeps in (False, True))
    assert gib(awake)["vLLM"] == pytest.approx(0.3 * H100.gib) and gib(asleep)["vLLM"] == estimate.ASLEEP
    found = estimate.estimate(asleep, H100, 1000)
    assert found.moments[estimate.ROLLOUT]["vLLM"] == pytest.approx(0.3 * H100.gib)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("strategy", ["zero3", "zero2"])
def test_the_largest_budget_fits_and_uses_the_card(checkpointing, strategy):
    made = setup(strategy=strategy, checkpointing=checkpointing)
    found = estimate.largest(made, H100)
    assert found % estimate.ROUND == 0
    assert 0.98 * H100.gib < estimate.estimate(made, H100, found).total(estimate.TRAINING) <= H100.gib
    assert not estimate.estimate(made, H100, round(found * 1.03)).fits


def test_nothing_fits_a_card_that_the_weights_fill():
    assert estimate.largest(setup(strategy="ddp"), cards.parse("rtx4090-24g")) == 0


def test_a_refusal_names_the_moment_the_component_and_what_would_fit():
    made = setup(tokens=200_000)
    reason = estimate.refusal(made, H100)
    assert reason is not None and reason.startswith("a process needs ")
    assert f"GiB in forward and backward and has {H100.gib:.1f}" in reason and "is for activations" in reason
    assert f"has up to 200,000 tokens and {estimate.largest(made, H100):,} would fit" in reason
    assert estimate.refusal(replace(made, tokens=20_000), H100) is None


def test_an_engine_without_room_for_its_weights_is_refused_with_the_arithmetic():
    large = ModelConfig(path="Qwen/Qwen2.5-32B-Instruct", dtype="bfloat16")
    made = setup(large, lora=LoraConfig(), vllm=Colocated(0.3, 1, True, 23_552))
    # 65.5e9 bytes of weights; 64 layers x 8 heads x 128 x 2 (key, value) x 2 bytes x 23,552 tokens = 5.75 GiB.
    reason = estimate.refusal(made, H100)
    start = "vLLM has 23.7 GiB, 0.3 of the card, and needs 68.8: 61.0 for weights on 1 GPUs"
    assert reason is not None and reason.startswith(start)
    assert "5.8 for a sequence of 23,552" in reason
    assert estimate.refusal(replace(made, vllm=Colocated(0.5, 4, True, 23_552)), H100) is None


def test_a_strategy_of_ones_own_is_not_estimated():
    with pytest.raises(LookupError, match=r"launcher\.strategy='mine\.yaml', a file of your own"):
        estimate.estimate(setup(strategy="mine.yaml"), H100, 1000)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8xh100-80g", Hardware(8, "h100-80g", 79.1)),
        ("A100-40G", Hardware(1, "a100-40g", 39.4)),
        ("2xcpu-8g", Hardware(2, "cpu", 8e9 / 2**30)),
    ],
)
def test_hardware_is_read(text, expected):
    assert cards.parse(text) == expected


def test_a_cpu_without_gigabytes_has_this_machines_memory():
    assert cards.parse("2xcpu").gib == pytest.approx(cards.parse("cpu").gib / 2)
    assert cards.parse("cpu").gib > 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("h100-90g", "there is no card 'h100-90g' in the table; known are a10g-24g, "),
        ("8 h100", "must be NxCARD-GBg, such as 8xh100-80g, or cpu"),
        ("0xh100-80g", "there is no card '0xh100-80g'"),
    ],
)
def test_hardware_of_another_form_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        cards.parse(text)
