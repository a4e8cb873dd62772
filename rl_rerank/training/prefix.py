"""Log-probabilities of completions with each prompt computed once for its whole group.

A group of G completions shares its prompt. One row holds the prompt without its last token, then G suffixes, each the
last prompt token followed by one completion without its last token:

    [p_0 .. p_{P-2}] [p_{P-1} c_0 .. c_{C-2}] [p_{P-1} c_0 .. c_{C-2}] ...

A 4D attention mask lets every suffix see the prompt and itself only, and position ids restart after the prompt, so the
log-probabilities equal those of G separate rows. The mask is right only where every layer attends to everything before
it; `refusal` names the models for which that does not hold, and they take the plain path.
"""

# Shape legend: B completions, N groups (B = N*G), G completions of a group, P prompt tokens, C completion tokens,
# T = P - 1 + G*C tokens of a row, V vocabulary.

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def refusal(model_config: Any) -> str | None:
    """Why the shared prefix would be wrong for a model with this configuration; None if it is right."""
    config = model_config.get_text_config()
    layer_types = set(getattr(config, "layer_types", None) or ["full_attention"])
    if layer_types != {"full_attention"}:
        return f"its layers are of the types {', '.join(sorted(layer_types))}, not full attention only"
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        return f"it attends within a sliding window of {config.sliding_window} tokens"
    if getattr(model_config, "_attn_implementation", "sdpa") not in ("sdpa", "eager"):
        return f"its attention implementation {model_config._attn_implementation!r} takes no 4D mask"
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
    prompt_ids, prompt_mask, completion_ids, completion_mask = _trim(
        prompt_ids[::num_generations], prompt_mask[::num_generations], completion_ids, completion_mask
    )
    groups, prefix = prompt_ids.size(0), prompt_ids.size(1) - 1
    length = completion_ids.size(1)
    last = prompt_ids[:, -1:].repeat_interleave(num_generations, dim=0)  # [B, 1]
    suffix = torch.cat([last, completion_ids[:, :-1]], dim=1).view(groups, num_generations * length)  # [N, G*C]
    outputs = model(
        input_ids=torch.cat([prompt_ids[:, :-1], suffix], dim=1),
        attention_mask=_mask(prompt_mask, num_generations, length),
        position_ids=_positions(prompt_mask, num_generations, length),
        logits_to_keep=torch.arange(prefix, prefix + suffix.size(1), device=suffix.device),
        use_cache=False,
    )
    logits = outputs.logits.view(groups * num_generations, length, -1).float() / temperature  # [B, C, V]
    log_normaliser = torch.logsumexp(logits, dim=-1)
    log_probs = logits.gather(-1, completion_ids.unsqueeze(-1)).squeeze(-1) - log_normaliser
    entropy = None
    if with_entropy:
        with torch.no_grad():
            probs = torch.softmax(logits, dim=-1)
            entropy = _pad((log_normaliser - (probs * logits).sum(-1)) * completion_mask, total)
    return _pad(log_probs * completion_mask, total), entropy


def _trim(
    prompt_ids: Tensor, prompt_mask: Tensor, completion_ids: Tensor, completion_mask: Tensor
) -> tuple[Tensor, ...]:
    """Cut the columns that are padding in every row."""
    start = int(prompt_mask.size(1) - prompt_mask.sum(1).max())
    end = max(int(completion_mask.sum(1).max()), 1)
    return prompt_ids[:, start:], prompt_mask[:, start:], completion_ids[:, :end], completion_mask[:, :end]


def _positions(prompt_mask: Tensor, num_generations: int, length: int) -> Tensor:
    """[N, T] positions: those of the prompt, then for every suffix the ones from the last prompt token on."""
    prompt = (prompt_mask.cumsum(1) - 1).clamp(min=0)  # [N, P]
    suffix = prompt[:, -1:] + torch.arange(length, device=prompt.device)  # [N, C]
    return torch.cat([prompt[:, :-1], suffix.repeat(1, num_generations)], dim=1)


def _mask(prompt_mask: Tensor, num_generations: int, length: int) -> Tensor:
    """[N, 1, T, T], True where the row's token may attend to the column's."""
    groups, prefix = prompt_mask.size(0), prompt_mask.size(1) - 1
    device, size = prompt_mask.device, num_generations * length
    own = torch.block_diag(*[torch.ones(length, length, device=device)] * num_generations).tril().bool()  # [G*C, G*C]
    mask = torch.zeros(groups, prefix + size, prefix + size, dtype=torch.bool, device=device)
    is_token = prompt_mask[:, None, :-1].bool()  # [N, 1, P-1]
    mask[:, :prefix, :prefix] = is_token & torch.ones(prefix, prefix, dtype=torch.bool, device=device).tril()
    mask[:, prefix:, :prefix] = is_token
    mask[:, prefix:, prefix:] = own
    # A padding token that may attend to nothing would become NaN and spread through the values of later layers.
    mask |= torch.eye(prefix + size, dtype=torch.bool, device=device)
    return mask.unsqueeze(1)


def _pad(values: Tensor, length: int) -> Tensor:
    return nn.functional.pad(values, (0, length - values.size(1)))
