"""FullRank's weights of an answer's tokens, by any tokenizer."""

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM
from trl import SFTConfig

from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.training.loop.answers import AnswerTrainer
from rl_rerank.training.loop.rank_weights import RankWeights
from rl_rerank.training.loop.rows import tokenised
from rl_rerank.types import Candidate, RankingExample

PLACES = [2.0, 1.6309, 1.5, 1.4307]  # 1 + 1 / log2(p + 1)


@pytest.mark.parametrize(
    ("target", "identifiers"),
    [
        ("[2] > [13] > [1]", ["[2]", "[13]", "[1]"]),
        ("B > A > C > D", ["B", "A", "C", "D"]),
        ("<think>[3] is best. A > B</think><answer>[3] > [1]</answer>", ["[3]", "[1]"]),
    ],
)
def test_every_token_of_an_identifier_has_the_weight_of_its_place(any_tokenizer, target, identifiers):
    *weights, of_the_end = RankWeights(separator=0.5)(target, any_tokenizer)
    assert of_the_end == 1.0
    offsets = any_tokenizer(target, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    assert len(weights) == len(offsets)
    begin = first = target.rfind("<answer>") + 8 if "<answer>" in target else 0
    expected = [1.0] * len(target)
    for place, text in enumerate(identifiers):
        at = target.index(text, begin)
        expected[begin:at] = [0.5 if place else 1.0] * (at - begin)
        expected[at : at + len(text)] = [PLACES[place]] * len(text)
        begin = at + len(text)
    assert first < begin
    for weight, (start, end) in zip(weights, offsets, strict=True):
        inside = expected[start:end]
        # A token that holds an end of an identifier and a separator is the identifier's.
        assert weight == pytest.approx(max(inside), abs=1e-4)


def test_the_weight_of_late_places():
    target = " > ".join(f"[{i}]" for i in range(1, 101))
    weights = RankWeights()(target, _Characters())
    assert (weights[1], weights[-3]) == pytest.approx((2.0, 1.150), abs=1e-3)
    # Only the proportions stay.
    mean = sum(weights) / len(weights)
    assert mean > 1.05
    normalised = RankWeights(normalise="weights")(target, _Characters())
    assert normalised == pytest.approx([weight / mean for weight in weights])
    assert sum(normalised) == pytest.approx(len(normalised))


class _Characters:
    """A tokenizer of characters."""

    def __call__(self, text, **_):
        return {"offset_mapping": [(i, i + 1) for i in range(len(text))]}


@pytest.mark.parametrize("target", ["yes", '{"[1]": 3, "[2]": 7}', "[2]", "7"])
def test_answers_that_give_no_order_count_as_they_do_without(chatml_tokenizer, target):
    assert set(RankWeights(separator=0.5)(target, chatml_tokenizer)) == {1.0}


class OneExample:
    """A store of one example."""

    def example(self, qid):
        return RankingExample(qid, "query", (Candidate("a", "first"), Candidate("b", "second")), {"b": 1})


def test_the_weighted_loss_is_the_weighted_sum_over_the_number_of_tokens(chatml_tokenizer, tiny_model_dir, tmp_path):
    renderer = Renderer(chatml_tokenizer, max_prompt_tokens=300)
    rows = [
        {"qid": "q", "paradigm": "listwise", "docids": ["a", "b"], "target": "[2] > [1]"},
        {"qid": "q", "paradigm": "listwise", "docids": ["a"], "target": "[1]"},
    ]
    dataset = tokenised(
        rows, OneExample(), {"listwise": Listwise(window=2)}, renderer, weights=RankWeights(separator=0.5)
    )
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    run = AnswerTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(tmp_path),
            report_to=[],
            use_cpu=True,
            bf16=False,
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
        ),
        rows=dataset,
        pad_id=0,
        train_dataset=Dataset.from_dict({"index": range(len(rows))}),
        processing_class=chatml_tokenizer,
    )
    batch = run.data_collator([run.train_dataset[0], run.train_dataset[1]])
    total, count = 0.0, 0
    for row in dataset:
        logits = model(torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
        for i, (label, weight) in enumerate(zip(row["labels"], row["weights"], strict=True)):
            if label != -100:
                total -= weight * logits[i - 1, label].item()
                count += 1
    assert run.compute_loss(model, batch).item() == pytest.approx(total / count, abs=1e-5)
