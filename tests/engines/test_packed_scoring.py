"""Continuations scored in packed rows: equal to padded rows, within the budget, and given up where they differ."""

import random

import pytest
import torch
from support.completion_groups import KINDS, tiny
from transformers import FalconMambaConfig, FalconMambaForCausalLM

from rl_rerank.engines.local.scoring import Scorer
from rl_rerank.packed import attention
from rl_rerank.packed.layout import pack

ENDINGS = [(5,), (6, 7), (6, 8), (9, 3, 4)]


def prompts(count=20, seed=0):
    """Prompts of three queries behind one instruction, shuffled."""
    rng = random.Random(seed)
    queries = [[1, 2, 3, 4] + [rng.randrange(1, 97) for _ in range(6)] for _ in range(3)]
    return [(*rng.choice(queries), *(rng.randrange(1, 97) for _ in range(rng.randint(2, 12)))) for _ in range(count)]


def scores(scorer, asked, endings):
    found = {}
    for batch in scorer.batches(asked, endings):
        found |= dict(zip(batch, scorer([asked[i] for i in batch], endings), strict=True))
    assert sorted(found) == list(range(len(asked)))
    return torch.tensor([found[i] for i in range(len(asked))])


@pytest.mark.parametrize("endings", [ENDINGS[:1], ENDINGS])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_scores_are_those_of_each_prompt_and_continuation_alone(kind, endings):
    model, asked = tiny(kind).eval(), prompts()
    expected = []
    for prompt in asked:
        for ending in endings:
            each = model(torch.tensor([[*prompt, *ending]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            expected.append(each.gather(1, torch.tensor(ending)[:, None]).sum().item())
    for tokens in (60, 1000):
        scorer = Scorer(model, pad_id=0, batch_tokens=tokens)
        found = scores(scorer, asked, endings)
        assert scorer.refusal is None
        assert torch.allclose(found.flatten(), torch.tensor(expected), atol=1e-4)


@torch.no_grad()
def test_batches_stay_within_the_budget_and_keep_prompts_that_share_together():
    scorer, asked = Scorer(tiny("llama"), pad_id=0, batch_tokens=80), prompts(40)
    batches = list(scorer.batches(asked, ENDINGS))
    rows = [pack([([*asked[i], *e], len(asked[i])) for i in batch for e in ENDINGS]).layout.length for batch in batches]
    assert len(batches) > 2 and max(rows) <= 80
    assert sum(rows) < 0.75 * sum(len(ids) + 4 for ids in asked)
    long = [tuple(range(1, 90)), (1, 2)]
    assert sorted(scorer.batches(long, ENDINGS)) == [[0], [1]]  # above the budget, by itself


@torch.no_grad()
def test_a_model_that_cannot_be_packed_is_scored_by_padded_rows():
    torch.manual_seed(0)
    model = FalconMambaForCausalLM(FalconMambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2)).eval()
    scorer, asked = Scorer(model, pad_id=0, batch_tokens=200), prompts(4)
    assert "layers of the type linear_attention" in scorer.refusal
    alone = [[model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)[5].item()] for ids in asked]
    assert torch.allclose(scores(scorer, asked, [(5,)]), torch.tensor(alone), atol=1e-4)


@torch.no_grad()
def test_a_packed_row_that_differs_is_given_up_with_a_sentence(monkeypatch, caplog):
    right = attention.tree_attention
    monkeypatch.setattr(attention, "tree_attention", lambda q, k, v, *a, **s: right(q, k, v.roll(1, 2), *a, **s))
    model, asked = tiny("qwen3").eval(), prompts(6)
    scorer = Scorer(model, pad_id=0, batch_tokens=500)
    wrong = scores(scorer, asked, ENDINGS)
    assert "nats apart from those of separate rows" in scorer.refusal and scorer.refusal in caplog.text
    monkeypatch.undo()
    again = Scorer(tiny("qwen3").eval(), pad_id=0, batch_tokens=500)
    assert torch.allclose(wrong, scores(again, asked, ENDINGS), atol=1e-4) and again.refusal is None


@torch.no_grad()
def test_a_document_whose_values_overflow_takes_no_other_along():
    model = tiny("qwen3").eval()
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())  # not tied
    model.model.embed_tokens.weight[96] = torch.nan
    asked = [tuple(token for token in ids if token != 96) for ids in prompts(6)]
    found = scores(Scorer(model, pad_id=0, batch_tokens=500), [*asked, (*asked[0], 96)], ENDINGS)
    assert found[:-1].isfinite().all() and not found[-1].isfinite().any()
    assert torch.allclose(found[:-1], scores(Scorer(model, pad_id=0, batch_tokens=500), asked, ENDINGS), atol=1e-4)


@pytest.mark.parametrize("is_packed", [True, False])
@pytest.mark.parametrize("autocast", [False, True])
@torch.no_grad()
def test_a_model_in_bfloat16_gives_each_document_a_score_of_its_own(is_packed, autocast):
    """Hidden states are in bfloat16; answers are projected from them in float32, with and without autocast."""
    model = tiny("llama").eval()
    model.lm_head.weight *= 50  # logits of about 10, which in bfloat16 lie 1/16 apart
    model.lm_head.weight[6] = model.lm_head.weight[5] + 0.02 * torch.randn(
        32
    )  # and two answers that are nearly as likely
    if not autocast:
        model = model.to(torch.bfloat16)
    scorer = Scorer(model, pad_id=0, batch_tokens=10_000)
    if not is_packed:
        scorer.refusal = "to take the other way"
    hidden: list[torch.Tensor] = []
    model.model.norm.register_forward_hook(lambda _module, _inputs, output: hidden.append(output))
    asked = prompts(30)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        scorer._is_verified = True  # which computes the first ones twice
        found = torch.tensor(scorer(asked, [(5,), (6,)]), dtype=torch.float64)
    [states] = hidden
    rows = model.lm_head.weight.float()
    if is_packed:
        places = pack([([*ids, end], len(ids)) for ids in asked for end in (5, 6)]).places
        last = states.flatten(0, 1)[places[::2]]
    else:
        last = states[:, -1]
    logits = last.float() @ rows.T
    expected = logits.log_softmax(-1)[:, [5, 6]].double()
    assert torch.allclose(found, expected, atol=1e-4)
    scores = found[:, 0] - found[:, 1]
    assert len({round(score, 5) for score in scores.tolist()}) == 30
    coarse = (last.bfloat16() @ rows.bfloat16().T).float()
    assert len(set((coarse[:, 5] - coarse[:, 6]).tolist())) < 30
    assert type(model.lm_head.forward).__name__ == "method"  # the head is its own again
