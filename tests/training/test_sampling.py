import pytest
import torch
from support.completion_groups import tiny
from transformers import GenerationConfig

from rl_rerank.training.grpo.sampling import sample_groups

PROMPTS = [[5, 9, 11, 3], [7, 2], [8]]


def config(**settings):
    return GenerationConfig(max_new_tokens=6, pad_token_id=0, eos_token_id=96, **settings)


@pytest.mark.parametrize("kind", ["llama", "mistral", "gemma3"])
def test_greedy_completions_equal_those_of_each_prompt_alone(kind):
    model = tiny(kind).eval()
    groups = sample_groups(
        model, PROMPTS, num_generations=2, generation_config=config(do_sample=False), pad_id=0, end_ids=[96]
    )
    for index, prompt in enumerate(PROMPTS):
        alone = model.generate(
            input_ids=torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            generation_config=config(do_sample=False),
        )[0, len(prompt) :].tolist()
        alone = alone[: alone.index(96) + 1] if 96 in alone else alone
        assert groups[2 * index] == groups[2 * index + 1] == alone


def test_samples_follow_the_models_distribution():
    # 2,000 first tokens of one prompt against the model's own probabilities: the largest deviation of a frequency from
    # its probability stays under 4 standard errors, 4 * sqrt(p (1 - p) / 2000) <= 4 * sqrt(.25 / 2000) = .045
    model = tiny("llama").eval()
    torch.manual_seed(3)
    samples = sample_groups(
        model,
        PROMPTS[:1],
        num_generations=2000,
        generation_config=config(do_sample=True, top_k=0),
        pad_id=0,
        end_ids=[96],
    )
    first = torch.bincount(torch.tensor([ids[0] for ids in samples]), minlength=97) / 2000
    expected = torch.softmax(model(torch.tensor(PROMPTS[:1])).logits[0, -1], -1)
    assert (first - expected).abs().max() < 0.045


def test_a_completion_ends_with_its_end_token():
    model = tiny("llama").eval()
    torch.manual_seed(4)
    ends = list(range(40, 97))
    for ids in sample_groups(
        model, PROMPTS, num_generations=8, generation_config=config(do_sample=True), pad_id=0, end_ids=ends
    ):
        assert all(token not in ends for token in ids[:-1])
        assert ids[-1] in ends or len(ids) == 6
