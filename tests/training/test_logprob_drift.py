import math

import pytest
import torch

from rl_rerank.training.grpo import logprob_drift


def test_the_gap_is_the_mean_over_sampled_tokens_and_the_share_counts_sequences_left_out():
    trainer = torch.tensor([[-1.0, -2.0, 0.0], [-3.0, -1.0, -1.0]])
    engine = torch.tensor([[-1.5, -2.0, 9.0], [-3.0, math.nan, -0.5]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    ratio = torch.tensor([[1.2, 1.0, 1.0], [0.0, 0.0, 0.0]])
    here = logprob_drift.sums(trainer, engine, mask, ratio)
    # |-1 + 1.5| + 0 and 0 + |-1 + 0.5| over the four tokens that vLLM gave a value for; the second sequence is left out
    assert logprob_drift.shares(here) == pytest.approx((1.0 / 4, 1 / 2))
    # Two processes: sums add, so a process with fewer tokens counts for less.
    other = logprob_drift.sums(trainer[:1], trainer[:1] + 1, mask[:1], torch.ones(1, 1))
    assert logprob_drift.shares(here + other) == pytest.approx((3.0 / 6, 1 / 3))


def test_a_gap_above_the_threshold_or_not_a_number_stops_the_run():
    logprob_drift.require(0.1, 0.1, step=3)
    with pytest.raises(ValueError, match=r"step 3: .* are 0\.5 nats from the trainer's on average, more than"):
        logprob_drift.require(0.5, 0.1, step=3)
    with pytest.raises(ValueError, match="nan nats"):
        logprob_drift.require(math.nan, 0.1, step=3)
