"""Training logs how much of the model's probability lies on the answers."""

import pytest
import torch
from support.choice_objective import choice_objective
from support.policies import labels
from support.scores_objective import scores_objective
from transformers import AutoModelForCausalLM

from rl_rerank.paradigms.first_token import FirstToken
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.paradigms.setwise import Setwise
from rl_rerank.training.exact.lists import ListCollator
from rl_rerank_rewards.exact_match import ExactMatch


@pytest.fixture(scope="module")
def model(tiny_model_dir):
    return AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32).eval()


def share(model, ids, answers):
    """Of one prompt alone."""
    with torch.no_grad():
        return model(torch.tensor([list(ids)])).logits[0, -1].softmax(0)[answers].sum().item()


@pytest.mark.parametrize("restricted", [True, False])
@pytest.mark.parametrize("paradigm", [Pointwise(), Setwise(children=2), Setwise(labels="numbers", children=2)], ids=str)
def test_the_share_of_a_choice_is_that_of_the_tokens_with_which_answers_part(
    model, chatml_tokenizer, paradigm, restricted
):
    made = choice_objective(chatml_tokenizer, paradigm, ExactMatch(), restrict_to_answers=restricted)
    batch = made.collate([{"index": 0}, {"index": 1}])
    expected = []
    for number in (0, 1):
        one = made.collate.decisions(number)
        expected.append(share(model, [*made.questions[number].token_ids, *one.beginnings[0]], list(one.options[0])))
    with torch.no_grad():
        found = made.answer_share(labels(made, model, batch), batch)
    assert found.prompts == 2 and found.mean == pytest.approx(sum(expected) / 2, rel=1e-4)


@pytest.mark.parametrize("with_answers", [True, False])
@pytest.mark.parametrize(
    "paradigm", [Pointwise(), FirstToken(window=4), FirstToken(window=4, labels="bracketed")], ids=str
)
def test_the_share_of_lists_is_that_of_the_tokens_that_are_read(model, chatml_tokenizer, paradigm, with_answers):
    made = scores_objective(chatml_tokenizer, paradigm=paradigm)
    batch = ListCollator(made.lists, made.reading, with_answers=with_answers)([{"index": i} for i in range(4)])
    ids = made.reading.ids
    expected = [
        share(model, [*prompt, *made.reading.opening], list(ids[: len(one.docids)] if made.reading.together else ids))
        for one in made.lists[:4]
        for prompt in one.prompts
    ]
    with torch.no_grad():
        found = made.answer_share(labels(made, model, batch), batch)
    assert found.prompts == len(expected)
    assert found.mean == pytest.approx(sum(expected) / len(expected), rel=1e-4)
