"""Every way to compute attention over prefixes and suffixes gives what separate rows give."""

import importlib.util

import pytest
import torch
from support.completion_groups import GENERATIONS, KINDS, batch, plain_log_probs, tiny

from rl_rerank.training.shared_prefix import attention, backends
from rl_rerank.training.shared_prefix.attention import Shared, _Attend, by_parts
from rl_rerank.training.shared_prefix.prefix import refusal, shared_log_probs

SHARED = Shared((5, 0, 3), 2)  # a row without a prefix, and one that is padded
LENGTH, HEADS, KEY_HEADS, SIZE = 4, 4, 2, 32  # FlexAttention on a GPU takes heads of at least 16
TOTAL = max(SHARED.prefixes) + SHARED.suffixes * LENGTH


def rows(device="cpu", dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shapes = [(len(SHARED.prefixes), heads, TOTAL, SIZE) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]
    made = [torch.randn(shape, generator=generator) for shape in shapes]
    return [x.to(device, dtype).requires_grad_() for x in made]


def is_token():
    """[N, T], False at the padding of prefixes."""
    places = torch.arange(TOTAL)
    return torch.stack([(places < prefix) | (places >= max(SHARED.prefixes)) for prefix in SHARED.prefixes])


def sequence_by_sequence(
    q, k, v, *, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale, causal, window_size
):
    """What flash_attn_varlen_func is documented to compute: queries are the last of their sequence's keys."""
    assert causal
    assert q.dtype == k.dtype == v.dtype
    found = []
    for i in range(len(cu_seqlens_q) - 1):
        mine = q[cu_seqlens_q[i] : cu_seqlens_q[i + 1]]
        keys, values = (x[cu_seqlens_k[i] : cu_seqlens_k[i + 1]].repeat_interleave(2, dim=1) for x in (k, v))
        assert len(mine) <= max_seqlen_q and len(keys) <= max_seqlen_k
        place = torch.arange(len(mine))[:, None] + len(keys) - len(mine)
        seen = torch.arange(len(keys)) <= place
        if window_size[0] >= 0:
            seen &= torch.arange(len(keys)) >= place - window_size[0]
        weights = torch.einsum("qhd,khd->hqk", mine, keys) * (softmax_scale or SIZE**-0.5)
        weights = weights.masked_fill(~seen, float("-inf")).softmax(-1)
        found.append(torch.einsum("hqk,khd->qhd", weights, values))
    return torch.cat(found)


@pytest.mark.parametrize("window", [None, 3, 6])
def test_sequences_of_gathered_keys_give_what_the_parts_give(window):
    outputs, gradients = [], []
    for way in ("parts", "varlen"):
        query, key, value = rows()
        if way == "parts":
            output = by_parts(query, key, value, SHARED, _Attend(0.0, None, window))
        else:
            output = backends.run_varlen(sequence_by_sequence, query, key, value, *SHARED, scaling=None, window=window)
        output = output[is_token()]
        (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
        outputs.append(output)
        gradients.append([x.grad for x in (query, key, value)])
    assert torch.allclose(*outputs, atol=1e-5)
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("window", [None, 3, 6])
def test_one_mask_of_blocks_gives_what_the_parts_give(window):
    query, key, value = (x.detach() for x in rows())  # on a CPU it has no backward
    parts = by_parts(query, key, value, SHARED, _Attend(0.0, None, window))
    whole = backends.flex(query, key, value, *SHARED, scaling=None, window=window)
    assert torch.allclose(parts[is_token()], whole[is_token()], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_loaded_with_flex_attention_is_shared_by_it(kind, monkeypatch):
    used = []
    flex = backends.flex
    monkeypatch.setattr(backends, "flex", lambda *a, **k: used.append(1) or flex(*a, **k))
    model, given = tiny(kind).eval().requires_grad_(False), batch()
    with torch.no_grad():
        plain = plain_log_probs(model, *given, temperature=1.0)
        model.set_attn_implementation("flex_attention")
        assert refusal(model) is None
        attention.install(model)
        shared, _ = shared_log_probs(model, *given, num_generations=GENERATIONS, temperature=1.0)
    assert len(used) == 3  # a layer each
    assert (shared - plain).abs().max() <= 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_mixed_precision_gives_the_variable_length_kernel_one_half_precision(kind, monkeypatch):
    used = []

    def kernel(q, k, v, **settings):
        assert q.dtype in (torch.bfloat16, torch.float16), q.dtype  # as flash-attn does
        used.append(q.dtype)
        return sequence_by_sequence(q, k, v, **settings)

    monkeypatch.setattr(backends, "lazy_import_flash_attention", lambda _: ((None, kernel), None))
    model, given = tiny(kind).eval().requires_grad_(False), batch()
    found = []
    for implementation in ("sdpa", "flash_attention_2"):
        model.config.get_text_config()._attn_implementation = implementation  # the package is not on every machine
        attention.install(model)
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            found.append(shared_log_probs(model, *given, num_generations=GENERATIONS, temperature=1.0)[0])
    assert used == [torch.bfloat16] * 3  # a layer each
    assert (found[0] - found[1]).abs().mean() <= 1e-2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("implementation", [*backends.VARLEN, backends.FLEX])
def test_kernels_give_what_the_parts_give_forward_and_backward(implementation, window):
    package = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}.get(implementation)
    if package is not None and importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}")
    found = []
    for way in ("sdpa", implementation):
        query, key, value = rows("cuda", torch.bfloat16)
        if way == "sdpa":
            output = by_parts(query, key, value, SHARED, _Attend(0.0, None, window))
        elif way == backends.FLEX:
            output = backends.flex(query, key, value, *SHARED, scaling=None, window=window)
        else:
            output = backends.varlen(way, query, key, value, *SHARED, scaling=None, window=window)
        output = output[is_token()].float()
        output.square().sum().backward()
        found.append([output, *(x.grad.float() for x in (query, key, value))])
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=5e-2, rtol=5e-2)
