"""Tiny random models of several kinds, groups of completions, and their log-probabilities row by row."""

import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

GROUPS = 3

GENERATIONS = 4

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}

WINDOW = 6  # below the prompts' 9 and 12 tokens, so that windows begin in the prompt, and within completions

KINDS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=8)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=WINDOW)),
    "gemma3": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(
            **SIZES,
            head_dim=8,
            sliding_window=WINDOW,
            layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        )
    ),
}


def tiny(kind):
    torch.manual_seed(0)
    return KINDS[kind]()


def moe():
    torch.manual_seed(0)
    sizes = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**SIZES, **sizes, head_dim=8, norm_topk_prob=True))


def batch():
    """Prompts of 9, 5 and 12 tokens padded on the left to 14; completions of 1 to 6 tokens padded on the right to 7."""
    generator = torch.Generator().manual_seed(1)
    prompt_ids = torch.zeros(GROUPS, 14, dtype=torch.long)
    prompt_mask = torch.zeros(GROUPS, 14, dtype=torch.long)
    for row, length in enumerate((9, 5, 12)):
        prompt_ids[row, -length:] = torch.randint(1, 97, (length,), generator=generator)
        prompt_mask[row, -length:] = 1
    completion_ids = torch.randint(1, 97, (GROUPS * GENERATIONS, 7), generator=generator)
    lengths = torch.randint(1, 7, (GROUPS * GENERATIONS, 1), generator=generator)
    completion_mask = (torch.arange(7) < lengths).long()
    return (
        prompt_ids.repeat_interleave(GENERATIONS, 0),
        prompt_mask.repeat_interleave(GENERATIONS, 0),
        completion_ids * completion_mask,
        completion_mask,
    )


def plain_log_probs(model, prompt_ids, prompt_mask, completion_ids, completion_mask, temperature):
    """Every row on its own, unpadded."""
    rows = []
    for prompt, is_prompt, completion, is_completion in zip(
        prompt_ids, prompt_mask, completion_ids, completion_mask, strict=True
    ):
        prompt, completion = prompt[is_prompt.bool()], completion[is_completion.bool()]
        logits = model(torch.cat([prompt, completion])[None]).logits[0, len(prompt) - 1 : -1] / temperature
        log_probs = torch.log_softmax(logits, -1).gather(-1, completion[:, None])[:, 0]
        rows.append(torch.nn.functional.pad(log_probs, (0, 7 - len(completion))))
    return torch.stack(rows)


def gradients(model):
    found = torch.cat([p.grad.flatten() for p in model.parameters()])
    model.zero_grad()
    return found
