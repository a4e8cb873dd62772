"""Log-probabilities of completions with each prompt computed once for its whole group.

A group of G completions shares its prompt. One row holds the prompt without its last token, then G suffixes, each the
last prompt token followed by one completion without its last token:

    [p_0 .. p_{P-2}] [p_{P-1} c_0 .. c_{C-2}] [p_{P-1} c_0 .. c_{C-2}] ...

Position ids restart after the prompt, and `attention` lets every suffix see the prompt and itself only, so the
log-probabilities equal those of G separate rows. Layers that carry a state along the row, or attend in a way of their
own, would not; `refusal` names the models that have them, and they take the plain path.
"""

# Shape legend: B completions, N groups (B = N*G), G completions of a group, P prompt tokens, C completion tokens,
# T = P - 1 + G*C tokens of a row, V vocabulary.

from typing import Any

import torch
from torch import Tensor, nn

from rl_rerank.training.shared_prefix import attention
from rl_rerank.training.shared_prefix.attention import Shared
from rl_rerank.training.shared_prefix.token_log_probs import token_log_probs

SEEN_RIGHT = {"full_attention", "sliding_attention"}
"""Types of layers that `attention` knows."""


def refusal(model: Any) -> str | None:
    """Why the shared prefix would be wrong for a transformers model; None if it is right."""
    config = model.config.get_text_config()
    if others := set(getattr(config, "layer_types", None) or ()) - SEEN_RIGHT:
        return f"it has layers of the type {', '.join(sorted(others))}, which see more than pairs of tokens"
    if not getattr(model, "_supports_attention_backend", False):
        return f"{type(model).__name__} does not let its attention be chosen"
    if any(name.rpartition(".")[2] == "sinks" for name, _ in model.named_parameters()):
        return "its attention has sinks"
    if getattr(config, "attn_logit_softcapping", None):
        return "its attention has soft-capped logits"
    known = (*attention.NAMES, *attention.NAMES.values())
    if config._attn_implementation not in known:
        return f"its attention implementation is {config._attn_implementation!r}; with 'sdpa' it could be shared"
    return None


def shared_log_probs(
    model: nn.Module,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    completion_ids: Tensor,
    completion_mask: Tensor,
    *,
    num_generations: int,
    temperature: float,
    with_entropy: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Log-probability of every completion token, and the entropy of its distribution.

    Args:
        prompt_ids: [B, P], left-padded; the G rows of a group are adjacent and equal.
        prompt_mask: [B, P], 1 for tokens.
        completion_ids: [B, C], right-padded.
        completion_mask: [B, C], 1 for tokens.

    Returns:
        Two [B, C] tensors in float32, natural logarithms, 0 at padding. The entropy carries no gradient.
    """
    total = completion_ids.size(1)
    completion_ids, completion_mask = _trim(completion_ids, completion_mask)
    prompt_ids, prompt_mask = prompt_ids[::num_generations], prompt_mask[::num_generations]
    groups, length = prompt_ids.size(0), completion_ids.size(1)
    prefixes = prompt_mask.sum(1) - 1  # [N]
    prefix = int(prefixes.max())
    last = prompt_ids[:, -1:].repeat_interleave(num_generations, dim=0)  # [B, 1]
    suffix = torch.cat([last, completion_ids[:, :-1]], dim=1).view(groups, num_generations * length)  # [N, G*C]
    outputs = model(
        input_ids=torch.cat([_moved(prompt_ids, prefixes, prefix), suffix], dim=1),
        # No mask is made of one that has four dimensions, and none is needed.
        attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=suffix.device),
        position_ids=_positions(prefixes, prefix, num_generations, length),
        logits_to_keep=torch.arange(prefix, prefix + suffix.size(1), device=suffix.device),
        use_cache=False,
        shared=Shared(tuple(prefixes.tolist()), num_generations),
    )
    log_probs, entropy = token_log_probs(
        outputs.logits.view(groups * num_generations * length, -1),
        completion_ids.flatten(),
        temperature=temperature,
        with_entropy=with_entropy,
    )
    log_probs = log_probs.view(completion_ids.shape)
    if entropy is not None:
        entropy = _pad(entropy.view(completion_ids.shape) * completion_mask, total)
    return _pad(log_probs * completion_mask, total), entropy


def _trim(completion_ids: Tensor, completion_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Cut the columns that are padding in every row."""
    end = max(int(completion_mask.sum(1).max()), 1)
    return completion_ids[:, :end], completion_mask[:, :end]


def _moved(prompt_ids: Tensor, prefixes: Tensor, prefix: int) -> Tensor:
    """[N, prefix]: left-padded prompts without their last token, padded on the right."""
    start = prompt_ids.size(1) - 1 - prefixes
    columns = start[:, None] + torch.arange(prefix, device=prompt_ids.device)
    return prompt_ids.gather(1, columns.clamp(max=prompt_ids.size(1) - 1))


def _positions(prefixes: Tensor, prefix: int, num_generations: int, length: int) -> Tensor:
    """[N, T] positions: those of the prompt, then for every suffix the ones from the last prompt token on."""
    before = torch.arange(prefix, device=prefixes.device).expand(len(prefixes), -1)
    suffix = prefixes[:, None] + torch.arange(length, device=prefixes.device)  # [N, C]
    return torch.cat([before, suffix.repeat(1, num_generations)], dim=1)


def _pad(values: Tensor, length: int) -> Tensor:
    return nn.functional.pad(values, (0, length - values.size(1)))
