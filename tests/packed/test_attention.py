"""Every way to compute attention over a packed row gives what a mask over the whole row gives."""

import importlib.util

import pytest
import torch
from support.completion_groups import KINDS, tiny
from support.token_trees import naive_attention, query_documents_completions, sequences

from rl_rerank.packed import attention, forward, kernels, tree_attention
from rl_rerank.packed.layout import pack
from rl_rerank.packed.segment_attention import segment_attention

HEADS, KEY_HEADS, SIZE = 4, 2, 32  # FlexAttention on a GPU takes heads of at least 16
WINDOWS = [None, 3, 7]


def row(asked, given):
    """The layout of sequences; with `given`, behind as many tokens from another forward and one more."""
    if not given:
        return pack(asked).layout
    prompt = list(range(100, 101 + given))
    return pack([(prompt + ids, len(prompt) + first) for ids, first in asked]).behind(given).layout


def rows(layout, device="cpu", dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    queries = layout.length - layout.given
    shapes = [(1, *shape, SIZE) for shape in ((HEADS, queries), (KEY_HEADS, layout.length), (KEY_HEADS, layout.length))]
    return [torch.randn(shape, generator=generator).to(device, dtype).requires_grad_() for shape in shapes]


def outcome(attend, layout, window, dtype=torch.float32, device="cpu"):
    """The output and the three gradients."""
    given = rows(layout, device, dtype)
    output = attend(*given, layout, scaling=None, window=window).float()
    (output * torch.linspace(-1, 1, output.numel(), device=device).view_as(output)).sum().backward()
    return [output, *(x.grad.float() for x in given)]


def naive(query, key, value, layout, *, scaling, window):
    given = query.new_zeros(1, HEADS, layout.given, SIZE)
    return naive_attention(torch.cat([given, query], 2), key, value, layout, window)[:, layout.given :]


def varlen(query, key, value, layout, *, scaling, window):
    return kernels.run_varlen(sequence_by_sequence, query, key, value, layout, scaling=scaling, window=window)


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
        weights = torch.einsum("qhd,khd->hqk", mine, keys) * (softmax_scale or mine.size(-1) ** -0.5)
        weights = weights.masked_fill(~seen, float("-inf")).softmax(-1)
        found.append(torch.einsum("hqk,khd->qhd", weights, values))
    return torch.cat(found)


WAYS = {"tree": tree_attention.tree_attention, "segments": segment_attention, "varlen": varlen}


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("given", [0, 1, 5, 20])
@pytest.mark.parametrize("seed", range(5))
def test_output_and_gradients_are_those_of_the_masked_matrix(way, window, given, seed, monkeypatch):
    # Parts of other sizes than in practice, so that small trees have some of each kind.
    monkeypatch.setattr(tree_attention, "SMALL", [1, 8, 64][seed % 3])
    monkeypatch.setattr(tree_attention, "QUERIES", 4)
    layout = row(sequences(seed, 9), given)
    for one, other in zip(outcome(WAYS[way], layout, window), outcome(naive, layout, window), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("given", [0, 30])
def test_a_cpu_computes_no_pair_that_does_not_see_each_other_but_in_small_segments(given, monkeypatch):
    monkeypatch.setattr(tree_attention, "SMALL", 1)
    layout = row(query_documents_completions(0), given)
    seen = sum(int(end) - max(place, given) for place, end in enumerate(layout.ends))
    whole = sum(
        (part.queries.stop - part.queries.start) * (part.keys.stop - part.keys.start)
        for part in tree_attention._parts(layout, None)
    )
    triangles = sum(s.length * (s.length - 1) // 2 for _, s in layout.computed)
    assert whole - triangles == seen


@pytest.mark.parametrize("window", WINDOWS)
def test_half_precision_stays_close(window):
    layout = pack(query_documents_completions(1)).layout
    half = outcome(tree_attention.tree_attention, layout, window, torch.bfloat16)
    for one, other in zip(half, outcome(naive, layout, window), strict=True):
        assert (one - other).abs().max() <= 0.05 * other.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("given", [0, 10, 40])
def test_one_mask_of_blocks_gives_what_the_masked_matrix_gives(given, window, monkeypatch):
    monkeypatch.setattr(kernels, "BLOCK", 16)
    layout = row([*query_documents_completions(0), *query_documents_completions(1)], given)
    of = [x.detach() for x in rows(layout)]  # on a CPU it has no backward
    whole = kernels.flex(*of, layout, scaling=None, window=window)
    assert torch.allclose(whole, naive(*of, layout, scaling=None, window=window), atol=1e-5)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("given", [0, 3, 16, 29])
def test_blocks_are_marked_as_the_pairs_in_them_are(given, window, monkeypatch):
    monkeypatch.setattr(kernels, "BLOCK", 8)
    layout = row(query_documents_completions(2), given)
    mask = kernels.block_mask(layout, window, torch.device("cpu"))
    total = layout.length
    pairs = mask.mask_mod(0, 0, torch.arange(total - given)[:, None], torch.arange(total))
    for first in range(-(-(total - given) // 8)):
        partial, whole = (
            set(indices[0, 0, first, : counts[0, 0, first]].tolist())
            for counts, indices in (
                (mask.kv_num_blocks, mask.kv_indices),
                (mask.full_kv_num_blocks, mask.full_kv_indices),
            )
        )
        for column in range(-(-total // 8)):
            block = pairs[first * 8 : first * 8 + 8, column * 8 : column * 8 + 8]
            if column in whole:
                assert block.all()
            elif column not in partial:
                assert not block.any()
            elif window is None and not given:
                assert block.any() and not (column < first and block.all())


def test_the_mask_of_blocks_is_small_at_45_000_tokens():
    prompt = list(range(3_000))
    layout = pack([(prompt + [10_000 + g] * 3_000, 3_000) for g in range(14)]).layout
    assert layout.length == 3_000 + 14 * 2_999
    mask = kernels.block_mask(layout, None, torch.device("cpu"))
    tensors = [x for x in mask.as_tuple() if isinstance(x, torch.Tensor)]
    assert sum(x.numel() * x.element_size() for x in tensors) < 64 * 2**20


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_loaded_with_flex_attention_is_computed_by_it(kind, monkeypatch):
    used = []
    flex = kernels.flex
    monkeypatch.setattr(kernels, "flex", lambda *a, **k: used.append(1) or flex(*a, **k))
    model, asked = tiny(kind).eval().requires_grad_(False), query_documents_completions(0)
    with torch.no_grad():
        plain = forward.plainly_scored(model, asked, pad_id=0).log_probs
        model.set_attn_implementation("flex_attention")
        assert forward.refusal(model) is None
        forward.install(model)
        packed = forward.scored(model, pack(asked)).log_probs
    assert len(used) == 3  # a layer each
    assert (packed - plain).abs().max() <= 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("trains", ["weights in float32", "weights in bfloat16"])
def test_mixed_precision_gives_every_kernel_one_type(kind, trains, monkeypatch):
    used = []

    def kernel(q, k, v, **settings):
        assert q.dtype in (torch.bfloat16, torch.float16), q.dtype  # as flash-attn does
        used.append(q.dtype)
        return sequence_by_sequence(q, k, v, **settings)

    monkeypatch.setattr(kernels, "lazy_import_flash_attention", lambda _: ((None, kernel), None))
    model = tiny(kind).to(torch.float32 if trains.endswith("float32") else torch.bfloat16).requires_grad_(False)
    packed, found = pack(query_documents_completions(0)), []
    for implementation in ("sdpa", "flash_attention_2"):
        model.config.get_text_config()._attn_implementation = implementation  # the package is not on every machine
        forward.install(model)
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            found.append(forward.scored(model, packed).log_probs)
    assert used == [torch.bfloat16] * 3  # a layer each
    assert (found[0] - found[1]).abs().mean() <= 1e-2


def test_models_keep_one_name_whether_loaded_with_sdpa_or_eager():
    assert attention.NAMES["sdpa"] == attention.NAMES["eager"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("given", [0, 150])
@pytest.mark.parametrize("implementation", ["sdpa", *kernels.VARLEN, kernels.FLEX])
def test_kernels_give_what_the_masked_matrix_gives_forward_and_backward(implementation, given, window):
    package = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}.get(implementation)
    if package is not None and importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}")
    ways = {"sdpa": segment_attention, kernels.FLEX: kernels.flex}
    way = ways.get(implementation) or (lambda *a, **k: kernels.varlen(implementation, *a, **k))
    layout = row(query_documents_completions(0), given)
    found = [outcome(attend, layout, window, torch.bfloat16, "cuda") for attend in (way, naive)]
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=5e-2, rtol=5e-2)
