"""The transformers engine against the model itself, one unpadded row at a time."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    FalconMambaConfig,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen3Config,
)

from rl_rerank.engines.decode import completion
from rl_rerank.engines.local.hf import HFEngine, _Draw
from rl_rerank.engines.local.scoring import padded_batches
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.types import END, Message, Prompt, Sampling, Segment

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
QUESTIONS = ["Is the passage relevant?", "Answer yes or no.", "Rank the passages by relevance to the query. " * 4, "no"]


def ask(text: str) -> Prompt:
    return Prompt("q", ("d",), (Message("system", (Segment("Rank."),)), Message("user", (Segment(text),))))


PROMPTS = [ask(text) for text in QUESTIONS]


@pytest.fixture(scope="module")
def renderer(chatml_tokenizer) -> Renderer:
    return Renderer(chatml_tokenizer, max_prompt_tokens=1024)


@pytest.fixture(scope="module")
def engine(tiny_model_dir, renderer) -> HFEngine:
    return HFEngine(tiny_model_dir, renderer)


@pytest.fixture(scope="module")
def one_by_one(engine, renderer) -> HFEngine:
    return HFEngine(engine.model, renderer, batch_tokens=1)


def logprobs(engine: HFEngine, prompt: Prompt, answer: tuple[int, ...]) -> list[float]:
    """Log-probabilities of the answer's tokens from one plain forward."""
    ids = engine.renderer(prompt).token_ids
    with torch.no_grad():
        logits = engine.model(torch.tensor([ids + answer])).logits[0].float().log_softmax(-1)
    return [logits[len(ids) - 1 + i, token].item() for i, token in enumerate(answer)]


def test_a_one_token_score_is_the_log_probability_under_the_whole_vocabulary(engine):
    for prompt, scored in zip(PROMPTS, engine.score(PROMPTS, ["yes", "no"]), strict=True):
        assert scored.finish_reason == "score" and scored.text == ""
        assert list(scored.continuations) == ["yes", "no"]
        for text, value in scored.continuations.items():
            assert value == pytest.approx(logprobs(engine, prompt, engine.renderer.continuation_ids(text))[0], abs=1e-5)


def test_a_longer_continuation_scores_the_sum_of_its_tokens(engine):
    texts = ["no", "yes [2] > [1]"]
    assert len(engine.renderer.continuation_ids(texts[1])) > 1
    for prompt, scored in zip(PROMPTS, engine.score(PROMPTS, texts), strict=True):
        for text in texts:
            expected = sum(logprobs(engine, prompt, engine.renderer.continuation_ids(text)))
            assert scored.continuations[text] == pytest.approx(expected, abs=1e-4)


def test_scores_do_not_depend_on_the_batch(engine, one_by_one):
    for a, b in zip(engine.score(PROMPTS, ["yes", "no"]), one_by_one.score(PROMPTS, ["yes", "no"]), strict=True):
        assert a.continuations == pytest.approx(b.continuations, abs=1e-5)


def test_bfloat16_arithmetic_rounds_scores_and_answers_and_leaves_the_weights(engine, renderer):
    rounded = HFEngine(engine.model, renderer, bf16=True)
    prompts = [ask(text) for text in QUESTIONS]
    exact, near = (
        torch.tensor([[*found.continuations.values()] for found in one.score(prompts, ["yes", "no"])])
        for one in (engine, rounded)
    )
    assert 0 < (exact - near).abs().max() < 5e-2
    [[answer]] = rounded.generate(prompts[:1], Sampling(max_tokens=4, temperature=0.0))
    [[plain]] = engine.generate(prompts[:1], Sampling(max_tokens=4, temperature=0.0))
    assert answer.logprobs != plain.logprobs
    assert answer.logprobs == pytest.approx(plain.logprobs, abs=5e-2)
    assert engine.model.dtype == torch.float32


def test_scoring_no_continuations_is_refused(engine):
    with pytest.raises(ValueError, match="no continuations"):
        engine.score(PROMPTS, [])


def test_no_prompts_give_no_answers(engine):
    assert engine.score([], ["yes"]) == []
    assert engine.generate([], Sampling(4)) == []


def test_greedy_answers_are_the_likeliest_tokens_whatever_the_batch(engine, one_by_one):
    batched = engine.generate(PROMPTS, Sampling(6))
    assert [[c.token_ids for c in row] for row in batched] == [
        [c.token_ids for c in row] for row in one_by_one.generate(PROMPTS, Sampling(6))
    ]
    ids = list(engine.renderer(PROMPTS[0]).token_ids)
    start = len(ids)
    with torch.no_grad():
        while len(ids) < start + 6 and (len(ids) == start or ids[-1] not in engine.stop_ids):
            ids.append(int(engine.model(torch.tensor([ids])).logits[0, -1].argmax()))
    assert batched[0][0].token_ids == tuple(ids[start:])


def test_samples_carry_their_log_probabilities_and_do_not_depend_on_the_batch(engine, one_by_one):
    sampling = Sampling(5, temperature=0.7, num_generations=3, seed=3)
    batched = engine.generate(PROMPTS, sampling)
    alone = one_by_one.generate(PROMPTS, sampling)
    for prompt, row, other in zip(PROMPTS, batched, alone, strict=True):
        assert len({c.token_ids for c in row}) == 3
        for a, b in zip(row, other, strict=True):
            assert a.token_ids == b.token_ids
            # The model's own log-probabilities, not those after the temperature.
            assert a.logprobs == pytest.approx(logprobs(engine, prompt, a.token_ids), abs=1e-4)


def test_a_prompt_is_computed_once_for_all_its_samples(engine):
    shapes = []
    layer = engine.model.get_input_embeddings()
    hook = layer.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(inputs[0].shape)))
    try:
        engine.generate(PROMPTS[:2], Sampling(3, temperature=1.0, num_generations=4))
    finally:
        hook.remove()
    longest = max(len(engine.render(prompt)) for prompt in PROMPTS[:2])
    assert shapes[:2] == [(2, longest - 1), (8, 1)]


@pytest.mark.parametrize(
    "config",
    [
        MistralConfig(**SIZES, num_attention_heads=4, num_key_value_heads=2, sliding_window=6),
        FalconMambaConfig(**SIZES, state_size=4),
    ],
    ids=["sliding window", "state"],
)
def test_models_of_other_kinds_sample_the_same_where_prompts_are_shared(renderer, config):
    torch.manual_seed(0)
    config.vocab_size = len(renderer.tokenizer)
    model = AutoModelForCausalLM.from_config(config)
    engine, alone = HFEngine(model, renderer), HFEngine(model, renderer, batch_tokens=1)
    sampling = Sampling(5, temperature=1.0, num_generations=3, seed=3)
    for row, other in zip(engine.generate(PROMPTS, sampling), alone.generate(PROMPTS, sampling), strict=True):
        assert [c.token_ids for c in row] == [c.token_ids for c in other]
        for a, b in zip(row, other, strict=True):
            assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        Qwen3Config(**SIZES, num_attention_heads=4, num_key_value_heads=2, head_dim=8),
        Gemma2Config(**SIZES, num_attention_heads=4, num_key_value_heads=2, head_dim=8, sliding_window=6),
        MistralConfig(**SIZES, num_attention_heads=4, num_key_value_heads=2, sliding_window=6),
        LlamaConfig(**SIZES, num_attention_heads=4, num_key_value_heads=2),
        GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=512),
    ],
    ids=lambda config: config.model_type,
)
def test_scores_do_not_depend_on_padding_in_any_kind_of_model(renderer, config):
    torch.manual_seed(0)
    config.vocab_size = len(renderer.tokenizer)
    model = AutoModelForCausalLM.from_config(config)
    assert len({len(renderer(prompt).token_ids) for prompt in PROMPTS}) > 1
    for continuations in (("yes", "no"), tuple(f"{score}{END}" for score in range(11))):
        together = HFEngine(model, renderer).score(PROMPTS, continuations)
        alone = HFEngine(model, renderer, batch_tokens=1).score(PROMPTS, continuations)
        for a, b in zip(together, alone, strict=True):
            assert a.continuations == pytest.approx(b.continuations, abs=1e-4)


def test_greedy_answers_carry_their_log_probabilities(engine):
    for prompt, [answer] in zip(PROMPTS, engine.generate(PROMPTS, Sampling(6)), strict=True):
        assert answer.logprobs == pytest.approx(logprobs(engine, prompt, answer.token_ids), abs=1e-4)


def test_what_is_drawn_does_not_depend_on_what_else_is_asked(engine):
    sampling = Sampling(5, temperature=1.0, num_generations=3, seed=3)
    together = engine.generate(PROMPTS, sampling)
    assert [c.token_ids for c in engine.generate(PROMPTS[2:3], sampling)[0]] == [c.token_ids for c in together[2]]
    [[third]] = engine.generate(PROMPTS[2:3], replace(sampling, num_generations=1, first=2))
    assert third.token_ids == together[2][2].token_ids


def test_a_prompt_that_occurs_again_is_sampled_on(engine):
    once = engine.generate(PROMPTS[:1], Sampling(5, temperature=1.0, num_generations=4))
    twice = engine.generate(PROMPTS[:1] * 2, Sampling(5, temperature=1.0, num_generations=2))
    assert [c.token_ids for c in once[0]] == [c.token_ids for row in twice for c in row]


def test_every_completion_is_told_as_soon_as_it_is_there(one_by_one):
    told = {}
    answers = one_by_one.generate(PROMPTS, Sampling(3), lambda place, sample, c: told.update({(place, sample): c}))
    assert told == {(place, 0): c for place, [c] in enumerate(answers)}
    for texts in (["yes", "no"], ["no", "yes [2] > [1]"]):
        told.clear()
        scored = one_by_one.score(PROMPTS, texts, lambda place, sample, c: told.update({(place, sample): c}))
        assert told == {(place, 0): c for place, c in enumerate(scored)}


def test_another_seed_draws_other_samples(engine):
    texts = [engine.generate(PROMPTS, Sampling(8, temperature=1.0, seed=s))[0][0].text for s in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_tokens_are_drawn_in_proportion_to_their_probability():
    rows = [(i, 0) for i in range(4000)]
    # p = (.5, .3, .2); the standard error of a share is at most sqrt(.25 / 4000) = .008.
    scores = torch.tensor([[math.log(0.5), math.log(0.3), math.log(0.2)]]).repeat(len(rows), 1)
    drawn = _Draw(None, Sampling(1, temperature=1.0), rows)(torch.zeros(len(rows), 0, dtype=torch.long), scores).argmax(
        -1
    )
    assert [(drawn == i).float().mean().item() for i in range(3)] == pytest.approx([0.5, 0.3, 0.2], abs=0.03)


def test_top_p_draws_from_the_nucleus_only():
    scores = torch.tensor([[math.log(0.5), math.log(0.3), math.log(0.2)]]).repeat(200, 1)
    draw = _Draw(None, Sampling(1, temperature=1.0, top_p=0.7), [(i, 0) for i in range(200)])
    # .5 alone is below .7, .5 + .3 is not: the third token is outside.
    assert set(draw(torch.zeros(200, 0, dtype=torch.long), scores).argmax(-1).tolist()) == {0, 1}


def test_a_prompt_that_does_not_fit_the_context_is_refused_before_the_model_runs(tiny_model_dir, chatml_tokenizer):
    engine = HFEngine(tiny_model_dir, Renderer(chatml_tokenizer, max_prompt_tokens=4096))
    with pytest.raises(ValueError, match="do not fit the model's context of 2048"):
        engine.generate([ask("yes " * 10)], Sampling(2040))


def test_a_model_in_training_mode_is_left_in_training_mode(engine):
    engine.model.train()
    engine.score(PROMPTS, ["yes"])
    assert engine.model.training
    engine.model.eval()


def test_batches_keep_rows_times_width_within_the_budget_and_lose_no_row():
    lengths = [3, 10, 4, 9, 50]
    # 50 alone exceeds the budget and stands alone; 10 + 9 make 2 x 10 = 20; 4 + 3 make 2 x 4 = 8.
    assert list(padded_batches(lengths, 20)) == [[4], [1, 3], [2, 0]]


def test_the_end_token_is_kept_in_the_ids_and_not_in_the_text(chatml_tokenizer):
    stop = {chatml_tokenizer.eos_token_id, 0}
    yes = chatml_tokenizer.encode("yes")
    ended = completion([*yes, chatml_tokenizer.eos_token_id, *yes], stop, chatml_tokenizer, [-1.0] * 9)
    assert (ended.text, ended.finish_reason) == ("yes", "stop")
    assert ended.token_ids == (*yes, chatml_tokenizer.eos_token_id)
    assert ended.logprobs == (-1.0,) * (len(yes) + 1)
    cut = completion(yes, stop, chatml_tokenizer)
    assert (cut.text, cut.finish_reason, cut.logprobs) == ("yes", "length", None)


@pytest.mark.parametrize("text", ["<answer>10</answer>", "\u00dcber \U0001f600 na\u00efve \u65e5\u672c 7", ""])
def test_with_log_probabilities_every_token_says_where_its_text_ends(chatml_tokenizer, text):
    ids = chatml_tokenizer.encode(text)
    answer = completion([*ids, 2], frozenset({2}), chatml_tokenizer, [-1.0] * (len(ids) + 1))
    assert answer.text == text
    assert len(answer.token_ends) == len(answer.token_ids)
    starts = [0, *answer.token_ends]
    pieces = [text[a:b] for a, b in zip(starts, answer.token_ends, strict=False)]
    assert "".join(pieces) == text
    for token, piece in zip(ids, pieces, strict=False):
        alone = chatml_tokenizer.decode([token])
        assert piece == alone or "\ufffd" in alone  # part of a character


def test_other_special_tokens_stay_visible_in_the_text(chatml_tokenizer):
    ids = chatml_tokenizer.encode("yes<|im_start|>no")
    assert completion(ids, frozenset({2}), chatml_tokenizer).text == "yes<|im_start|>no"
