"""Dead groups give their place to others: which, from where, how often, and what stays as it was."""

from dataclasses import replace

import pytest
import torch
from support.grpo_trainer import Uneven, trainer

from rl_rerank.reward.base import Term
from rl_rerank.training.grpo.dynamic_sampling import Group, Refill
from rl_rerank_rewards.format import Format

pytestmark = pytest.mark.slow


def group(question, *rewards):
    return Group(question, [[1]] * len(rewards), None, [], rewards)


def test_spare_questions_are_the_steps_own_and_no_other_process_has_them():
    # Two prompts a step, and two rounds: step 1 has the block 6..11, of which 6 and 7 are asked first.
    refill = Refill(prompts_per_step=2, rounds=2)
    assert refill.block == 6
    asked = {
        (attempt, process): refill.spares(7, attempt, process, share=1, count=1)
        for attempt in range(2)
        for process in range(2)
    }
    assert asked == {(0, 0): [8], (0, 1): [9], (1, 0): [10], (1, 1): [11]}


@pytest.mark.parametrize(
    ("rewards", "min_std", "is_dead"),
    [
        ((0.3, 0.3, 0.3), 0.0, True),  # exactly, though their float32 mean is not 0.3
        ((0.3, 0.3, 0.31), 0.0, False),
        ((0.3, 0.3, 0.31), 0.01, True),  # sqrt(2/9) x 0.01 = .0047
        ((0.0, 0.0, 1.0), 0.4, False),  # sqrt(2/9) = .471
        ((0.0, 0.0, 1.0), 0.48, True),
    ],
)
def test_a_group_is_dead_where_its_rewards_hardly_differ(rewards, min_std, is_dead):
    assert Refill(1, 1, min_std).is_dead(group(0, *rewards)) == is_dead


def test_only_dead_groups_are_replaced_and_only_by_live_ones():
    refill = Refill(prompts_per_step=3, rounds=2)
    worth = {3: (1, 1), 4: (0, 1), 6: (0, 0), 7: (0, 0)}
    asked = []

    def sample(questions):
        asked.append(list(questions))
        return [group(q, *worth[q]) for q in questions]

    first = [group(0, 0, 1), group(1, 0, 0), group(2, 1, 1)]
    found = refill(first, sample, most=lambda number: number, process=0)
    # Two are dead: of 3 and 4 only 4 lives, and takes the first place. In the second round one is asked, and dead, too.
    assert asked == [[3, 4], [6]]
    assert [g.question for g in found] == [0, 4, 2]
    assert found[0] is first[0] and found[2] is first[2]


def test_a_process_without_dead_groups_samples_as_many_as_the_others():
    asked = []

    def sample(questions):
        asked.append(list(questions))
        return [group(q, 0, 1) for q in questions]

    first = [group(0, 0, 1)]
    assert Refill(2, 1)(first, sample, most=lambda number: 1, process=0) == first
    assert asked == [[2]]


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo"])
def test_refilling_trains_on_other_prompts_and_as_many_of_them(tiny_model_dir, chatml_tokenizer, tmp_path, loss_type):
    refill = Refill(prompts_per_step=2, rounds=2)
    torch.manual_seed(0)
    run = trainer(
        tiny_model_dir, chatml_tokenizer, tmp_path, num_questions=12, refill=refill, loss_type=loss_type, max_steps=2
    )
    asked = run.task.questions
    dead = {asked[0].example.qid}  # the first step's first question
    run.task = replace(run.task, terms=[Term("ndcg", Uneven(*dead)), Term("format", Format())])
    batches, tables, generate = [], [], run._generate_and_score_completions

    def seen(inputs):
        batches.append(generate(inputs))
        tables.append(run.completions)
        return batches[-1]

    run._generate_and_score_completions = seen
    run.train()
    for batch, table in zip(batches, tables, strict=True):
        assert len(batch["advantages"]) == len(table) == 8
        # The denominator of dapo is of the completions that are trained on, and those of the others of their number.
        assert batch["num_items_in_batch"] == batch["completion_mask"].sum()
        assert (batch["advantages"].view(2, 4) != 0).any(1).all()
        for start in (0, 4):
            assert len({row["qid"] for row in table[start : start + 4]}) == 1
    assert not dead & {row["qid"] for row in tables[0]}
    history = [row for row in run.state.log_history if "refill/replaced_groups" in row]
    assert history[0]["refill/replaced_groups"] >= 0.5
    assert history[0]["refill/reward_before"] != history[0]["reward"]
    assert history[0]["skipped_groups"] == 0


def test_where_every_prompt_is_dead_the_step_stays_whole_and_is_skipped(tiny_model_dir, chatml_tokenizer, tmp_path):
    run = trainer(
        tiny_model_dir, chatml_tokenizer, tmp_path, num_questions=12, refill=Refill(2, 2), loss_type="dapo", max_steps=1
    )
    run.task = replace(run.task, terms=[Term("same", lambda e, r: 0.3), Term("format", Format())])
    before = [p.detach().clone() for p in run.model.parameters()]
    run.train()
    assert len(run.completions) == 8
    assert run.state.log_history[0]["skipped_groups"] == 1
    assert run.state.log_history[0]["refill/replaced_groups"] == 0
    assert all(torch.equal(a, b) for a, b in zip(before, run.model.parameters(), strict=True))
