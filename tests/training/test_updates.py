"""Several optimizer steps on one batch of completions."""

import pytest
import torch
from accelerate import Accelerator
from support.grpo_trainer import trainer
from support.sharded_grpo import record

from rl_rerank.training.grpo import updates
from rl_rerank.training.loop.batches import prompt_order

pytestmark = pytest.mark.slow


def test_a_batch_is_divided_in_order_and_each_step_counts_its_own_tokens():
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 0], [1, 0, 0], [1, 0, 0], [1, 1, 1], [1, 1, 1]])
    batch = {"completion_mask": mask, "row": torch.arange(8), "num_items_in_batch": mask.sum()}
    one = updates.split(batch, Accelerator(cpu=True), 4, 1)
    assert [part["row"].tolist() for part in one] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert [int(part["num_items_in_batch"]) for part in one] == [16] * 4
    two = updates.split(batch, Accelerator(cpu=True), 4, 2)
    # 3 + 1 + 2 + 2 tokens, then 1 + 1 + 3 + 3; trl divides by the number of updates.
    assert [part["row"].tolist() for part in two] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert [int(part["num_items_in_batch"]) for part in two] == [2 * 8] * 4
    mask[0] = 0
    assert [int(part["num_items_in_batch"]) for part in updates.split(batch, Accelerator(cpu=True), 4, 2)] == [
        *(2 * 5, 2 * 5),
        *(2 * 8, 2 * 8),
    ]


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_the_updates_of_a_batch_have_the_same_prompts_on_any_number_of_processes(processes):
    order = prompt_order(24, 3, processes)
    shares = [order[start : start + 24 // processes] for start in range(0, 24, 24 // processes)]
    size = 8 // processes
    for update in range(3):
        found = [prompt for share in shares for prompt in share[update * size : (update + 1) * size]]
        assert found == list(range(update * 8, (update + 1) * 8))


BUDGET = {"micro_batch_tokens": 500, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}


@pytest.mark.parametrize("by", [{"gradient_accumulation_steps": 2}, BUDGET], ids=["rows", "tokens"])
@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo"])
def test_the_first_update_is_the_step_on_its_prompts_alone_and_the_next_is_off_its_policy(
    tiny_model_dir, chatml_tokenizer, tmp_path, loss_type, by
):
    runs = {}
    for number in (1, 2):
        run = trainer(
            tiny_model_dir,
            chatml_tokenizer,
            tmp_path,
            loss_type=loss_type,
            max_steps=4,
            num_questions=8,
            learning_rate=1e-2,
            steps_per_generation=by["gradient_accumulation_steps"] * number,
            **by,
        )
        record(run)
        batches, generate = [], run._generate_and_score_completions

        def seen(inputs, generate=generate, batches=batches):
            batches.append([row["prompt"] for row in inputs])
            return generate(inputs)

        run._generate_and_score_completions = seen
        run.train()
        runs[number] = [row for row in run.state.log_history if "grad_norm" in row], batches
    (alone, _), (both, batches) = runs[1], runs[2]
    assert both[0]["grad_norm"] == pytest.approx(alone[0]["grad_norm"], rel=1e-4)
    # Two batches of four questions, every one of them once.
    assert [len(keys) for keys in batches] == [16, 16]
    assert [key for keys in batches for key in keys[::4]] == [str(number) for number in range(8)]
    # The first update of a batch has no ratio but 1; the second is clipped here and there.
    clipped = [row["clip_ratio/region_mean"] for row in both]
    assert clipped[0] == clipped[2] == 0 and min(clipped[1], clipped[3]) > 0
    assert all(row["clip_ratio/region_mean"] == 0 for row in alone)
    assert ["reward" in row for row in both] == [True, False, True, False]
