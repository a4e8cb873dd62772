import math

import pytest
import torch
from transformers import AutoModelForCausalLM, TrainingArguments

from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.rendering import Renderer
from rl_rerank.training.softmax import SoftmaxTrainer, lists, softmax_loss
from rl_rerank.types import Candidate, RankingExample


def test_softmax_loss_by_hand():
    # list 1: scores 0, 0, grades 1, 0: -log(1/2) = .69315
    # list 2: scores log 2, 0, 0, grades 2, 1, 0: softmax 1/2, 1/4, 1/4; -(2/3 log 1/2 + 1/3 log 1/4) = .92420
    scores = torch.tensor([0.0, 0.0, math.log(2), 0.0, 0.0])
    grades = torch.tensor([1.0, 0.0, 2.0, 1.0, 0.0])
    assert softmax_loss(scores, grades, [2, 3]).item() == pytest.approx((0.69315 + 0.92420) / 2, abs=1e-5)


def test_the_gradient_raises_the_relevant_document():
    scores = torch.zeros(3, requires_grad=True)
    softmax_loss(scores, torch.tensor([0.0, 1.0, 0.0]), [3]).backward()
    # softmax - target = 1/3, 1/3 - 1, 1/3
    assert scores.grad.tolist() == pytest.approx([1 / 3, -2 / 3, 1 / 3])


def example(qid, grades):
    candidates = tuple(Candidate(f"{qid}d{i}", f"passage {i} of {qid}") for i in range(len(grades)))
    return RankingExample(qid, f"question {qid}", candidates, {f"{qid}d{i}": g for i, g in enumerate(grades)})


def test_a_list_is_one_best_document_and_some_of_lower_grades(chatml_tokenizer):
    renderer = Renderer(chatml_tokenizer, max_prompt_tokens=200)
    examples = [example("a", [0, 2, 0, 1, 2, 0]), example("b", [0, 0]), example("c", [0, 1])]
    rows = lists(examples, Pointwise(), renderer, count=40, size=3, seed=1)
    assert len(rows) == 40
    long = [row for row in rows if len(row["grades"]) == 3]  # b has one grade only and c two documents
    assert len(long) == 20
    for row in long:
        assert row["grades"][0] == 2 and max(row["grades"][1:]) < 2
        [yes], [no] = renderer.continuation_ids("yes"), renderer.continuation_ids("no")
        assert [ids[-1] for ids in row["input_ids"]] == [yes if grade >= 1 else no for grade in row["grades"]]
        assert len({tuple(ids) for ids in row["input_ids"]}) == 3
    assert len({tuple(map(tuple, row["input_ids"])) for row in long}) > 10
    assert rows[:] == lists(examples, Pointwise(), renderer, count=40, size=3, seed=1)[:]
    whole = lists(examples[:1], Pointwise(), renderer, count=1, size=None, seed=1)
    assert whole["grades"] == [[0, 2, 0, 1, 2, 0]]


def test_lists_need_candidates_of_different_grades(chatml_tokenizer):
    renderer = Renderer(chatml_tokenizer, max_prompt_tokens=200)
    with pytest.raises(ValueError, match="no training query has candidates of different grades"):
        lists([example("b", [1, 1])], Pointwise(), renderer, count=1, size=None, seed=1)


def test_the_loss_is_the_ranking_loss_and_the_weighted_cross_entropy_of_the_answers(tiny_model_dir, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    yes, no, end = 20, 21, 22
    # The second row is padded on the left; its answer is "no".
    inputs = {
        "input_ids": torch.tensor([[5, 6, 7, yes], [0, 8, 9, no]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]]),
        "grades": torch.tensor([1.0, 0.0]),
        "sizes": [2],
    }
    rows = [torch.log_softmax(model(torch.tensor([ids])).logits[0], -1) for ids in ([5, 6, 7, yes], [8, 9, no])]
    # scores s1, s2 with grades 1, 0: log(1 + exp(s2 - s1)); answers: the mean over "yes", "no" and two end tokens
    scores = [row[-2, yes] - row[-2, no] for row in rows]
    ranking = torch.log1p((scores[1] - scores[0]).exp())
    answering = -(rows[0][-2, yes] + rows[0][-1, end] + rows[1][-2, no] + rows[1][-1, end]) / 4
    for weight in (0.0, 0.5):
        trainer = SoftmaxTrainer(
            model=model,
            args=TrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True),
            positive_id=yes,
            negative_id=no,
            end_id=end,
            pad_id=0,
            answer_weight=weight,
        )
        expected = (ranking + weight * answering).item()
        assert trainer.compute_loss(model, inputs).item() == pytest.approx(expected, abs=1e-5)
