import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, Qwen3Config, Qwen3ForCausalLM

from rl_rerank.training.prefix import refusal, shared_log_probs

GROUPS, GENERATIONS = 3, 4


def tiny(kind):
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
    }
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=True))
    return Qwen3ForCausalLM(Qwen3Config(**sizes, head_dim=8))


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


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_shared_prefix_equals_separate_rows_forward_and_backward(kind):
    model, rows = tiny(kind), batch()
    weights = torch.randn(GROUPS * GENERATIONS, 7, generator=torch.Generator().manual_seed(2))

    shared, _ = shared_log_probs(model, *rows, num_generations=GENERATIONS, temperature=0.7)
    (shared * weights).sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    plain = plain_log_probs(model, *rows, temperature=0.7)
    (plain * weights).sum().backward()

    assert torch.allclose(shared, plain, atol=1e-5)
    for name, parameter in model.named_parameters():
        scale = parameter.grad.abs().max().clamp(min=1e-6)
        assert ((gradients[name] - parameter.grad).abs().max() / scale) < 1e-4, name


def test_one_group_and_completions_of_one_token():
    model = tiny("llama")
    prompt_ids, prompt_mask, completion_ids, completion_mask = (rows[:GENERATIONS] for rows in batch())
    completion_mask = torch.zeros_like(completion_mask)
    completion_mask[:, 0] = 1
    rows = (prompt_ids, prompt_mask, completion_ids, completion_mask)
    shared, _ = shared_log_probs(model, *rows, num_generations=GENERATIONS, temperature=1.0)
    assert shared.shape == (GENERATIONS, 7)
    assert torch.allclose(shared, plain_log_probs(model, *rows, temperature=1.0), atol=1e-5)


def test_entropy_is_that_of_the_sampled_distribution():
    model, rows = tiny("llama"), batch()
    _, entropy = shared_log_probs(model, *rows, num_generations=GENERATIONS, temperature=2.0, with_entropy=True)
    prompt = rows[0][0][rows[1][0].bool()]
    # H of the first answer token of the first prompt, from one plain forward
    log_probs = torch.log_softmax(model(prompt[None]).logits[0, -1] / 2.0, -1)
    assert entropy[0, 0].item() == pytest.approx(-(log_probs.exp() * log_probs).sum().item(), abs=1e-5)


def test_models_whose_layers_do_not_see_everything_are_refused():
    assert refusal(tiny("llama").config) is None
    assert refusal(tiny("qwen3").config) is None
    assert "sliding window of 16" in refusal(MistralConfig(sliding_window=16))
