"""Times of phases, tokens of a step, and what a training run logs of both."""

import pytest
import torch
from support.completion_groups import GENERATIONS, batch
from support.grpo_trainer import trainer

from rl_rerank.training.grpo import timing
from rl_rerank.training.grpo.timing import PHASES, Phases, num_tokens

pytestmark = pytest.mark.slow


def test_a_phase_inside_another_counts_for_itself_only(monkeypatch):
    clock = iter([0.0, 1.0, 4.0, 6.0, 10.0, 11.0])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    timed = Phases()
    timed.begin("update")  # 0
    with timed("rollout"):  # 1
        timed("sync")(lambda: None)()  # 4 to 6
        # until 10
    timed.end()  # 11
    assert timed.take() == {"rollout": 3 + 4, "reward": 0, "old": 0, "ref": 0, "update": 1 + 1, "sync": 2}
    assert timed.take() == dict.fromkeys(PHASES, 0)


def test_tokens_with_each_prompt_counted_once_and_with_each_row():
    _, prompt_mask, _, completion_mask = batch()
    completions = int(completion_mask.sum())
    # Prompts of 9, 5 and 12 tokens, each for 4 completions
    assert num_tokens(prompt_mask, completion_mask, GENERATIONS).tolist() == [26 + completions, 4 * 26 + completions]


@pytest.mark.parametrize("lora", [False, True])
def test_every_step_logs_its_phases_and_its_throughput(tiny_model_dir, chatml_tokenizer, tmp_path, lora):
    run = trainer(tiny_model_dir, chatml_tokenizer, tmp_path, lora=lora, beta=0.1, num_iterations=2, max_steps=4)
    batches, generate = [], run._generate_and_score_completions

    def seen(inputs):
        batches.append(generate(inputs))
        return batches[-1]

    run._generate_and_score_completions = seen
    run.train()
    rows = [row for row in run.state.log_history if "time/update" in row]
    assert len(rows) == 4
    for step, row in enumerate(rows):
        samples = step % 2 == 0  # completions are used for two steps
        for phase in ("rollout", "reward", "old", "ref"):
            assert (row[f"time/{phase}"] > 0) == samples, phase
        assert row["time/update"] > 0 and row["time/sync"] == 0
        seconds = sum(row[f"time/{phase}"] for phase in PHASES)
        batch = batches[step // 2]
        for name, every in (("unique", 4), ("raw", 1)):
            expected = batch["prompt_mask"][::every].sum() + batch["completion_mask"].sum()
            assert row[f"tokens_per_second/{name}"] * seconds == pytest.approx(float(expected), rel=1e-5)


def test_the_share_of_variance_within_groups_is_logged(tiny_model_dir, chatml_tokenizer, tmp_path):
    run = trainer(tiny_model_dir, chatml_tokenizer, tmp_path, max_steps=1)
    run.train()
    rewards = torch.tensor([row["reward"] for row in run.completions]).view(-1, GENERATIONS)
    expected = rewards.var(dim=1, correction=0).mean() / rewards.var(correction=0)
    assert 0 < expected < 1
    assert run.state.log_history[0]["group_variance_share"] == pytest.approx(expected.item(), rel=1e-4)
