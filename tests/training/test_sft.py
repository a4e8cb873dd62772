import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM
from trl import SFTConfig, SFTTrainer

from rl_rerank.training.loop.answers import AnswerTrainer

pytestmark = pytest.mark.slow

ROWS = [
    {"input_ids": [5, 6, 7, 8, 9, 10], "labels": [-100, -100, -100, -100, 9, 10]},
    {"input_ids": [11, 12, 13], "labels": [-100, 12, 13]},
    {"input_ids": [5, 9, 20, 30], "labels": [-100, -100, 20, 30]},
    {"input_ids": [40, 41, 42, 43, 44], "labels": [-100, -100, -100, -100, 44]},
]


def test_the_head_on_answers_only_trains_to_the_same_weights_as_trl(tiny_model_dir, chatml_tokenizer, tmp_path):
    # SGD, so that the weights move in proportion to the gradient and rounding is not blown up
    weights, losses = [], []
    for cls in (AnswerTrainer, SFTTrainer):
        ours = cls is AnswerTrainer
        numbers = Dataset.from_dict({"index": range(len(ROWS))})
        trainer = cls(
            **({"rows": ROWS, "pad_id": 0} if ours else {}),
            model=AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32),
            args=SFTConfig(
                output_dir=str(tmp_path),
                max_steps=3,
                per_device_train_batch_size=2,
                gradient_accumulation_steps=2,
                learning_rate=0.1,
                optim="sgd",
                use_cpu=True,
                bf16=False,
                report_to=[],
                save_strategy="no",
                logging_steps=1,
                max_length=None,
                gradient_checkpointing=False,
                train_sampling_strategy="sequential",
                dataset_kwargs={"skip_prepare_dataset": True},
                remove_unused_columns=False,
            ),
            train_dataset=numbers if ours else Dataset.from_list(ROWS),
            processing_class=chatml_tokenizer,
        )
        trainer.train()
        weights.append(trainer.model.state_dict())
        losses.append([row["loss"] for row in trainer.state.log_history if "loss" in row])
    assert torch.allclose(torch.tensor(losses[0]), torch.tensor(losses[1]), atol=1e-4)
    start = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32).state_dict()
    assert max((weights[1][n] - start[n]).abs().max() for n in start) > 1e-3
    for name in start:
        assert torch.allclose(weights[0][name], weights[1][name], atol=1e-5), name
