"""What runs cost, and who is on the front."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rl_rerank.engines.scripted import Scripted
from rl_rerank.evaluation.cost import Cost, cost, pareto, read_cost
from rl_rerank.io.files import write_json
from rl_rerank.pages.figures import frontier, spread
from rl_rerank.types import Completion, Judgment, Prompt, Ranking, Rollout, Status


class Engine(Scripted):
    """Sends token ids or messages, and counts as a server's engine does."""

    def __init__(self, sent, usage):
        super().__init__(lambda prompt: "")
        self._sent, self.usage = sent, usage

    def render(self, prompt):
        return self._sent


def rollout(text, *token_ids):
    return Rollout(Prompt("q", ("d",), ()), Completion(text, token_ids), Judgment(Status.ok))


RANKINGS = [Ranking("q", ("d",), {"d": 1.0}, rounds=2), Ranking("p", ("d",), {"d": 1.0}, rounds=5)]


def test_tokens_are_those_sent_and_those_generated():
    found = cost(RANKINGS, [rollout("yes", 7), rollout("", 7, 8), rollout("")], Engine((1, 2), {}), 1.23456)
    # Rounds are the longest chain of answers, over queries that were ranked side by side.
    assert found == Cost(calls=3, rounds=5, prompt_tokens=6, completion_tokens=3, seconds=1.235)
    assert found.tokens == 9


def test_what_the_engine_counted_is_not_rendered_again():
    class Once(Engine):
        def render(self, prompt):
            raise AssertionError("rendered again")

    counted = [replace(rollout("yes", 7), completion=Completion("yes", (7,), prompt_tokens=n)) for n in (3, 4)]
    assert cost(RANKINGS, counted, Once((), {}), 1.0).prompt_tokens == 7


def test_messages_are_counted_by_the_server_or_not_at_all():
    messages = [{"role": "user", "content": "what"}]
    asked = [rollout("yes"), rollout("no")]
    told = {"calls": 2, "prompt_tokens": 40, "completion_tokens": 4}
    assert cost(RANKINGS, asked, Engine(messages, told), 1.0).tokens == 44
    # One answer of two came from a journal, so the server has counted one.
    found = cost(RANKINGS, asked, Engine(messages, {**told, "calls": 1}), 1.0)
    assert (found.prompt_tokens, found.completion_tokens, found.tokens) == (None, None, None)


def test_costs_of_fused_runs_add_up_but_for_their_rounds():
    one, other = Cost(3, 2, 30, 3, 1.0), Cost(4, 5, 40, 4, 0.5)
    assert one + other == Cost(7, 5, 70, 7, 1.5)
    assert (one + Cost(4, 5, None, 4, 0.5)).prompt_tokens is None


def test_a_summary_without_its_cost_names_the_stage_to_run(tmp_path):
    write_json(tmp_path / "summary.json", {"cost": {"calls": 1, "seconds": 2.0}})
    assert read_cost(tmp_path / "summary.json") == Cost(calls=1, seconds=2.0)
    write_json(tmp_path / "summary.json", {})
    with pytest.raises(ValueError, match="does not say what the run cost; remove"):
        read_cost(tmp_path / "summary.json")


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([(0, 0.5), (10, 0.7), (20, 0.6), (30, 0.9)], [0, 1, 3]),
        ([(10, 0.7), (10, 0.6), (0, 0.1)], [2, 0]),  # as dear as the first, but worse
        ([(10, 0.7), (20, 0.7)], [0]),  # as good, but dearer
        ([(10, 0.7), (10, 0.7)], [0, 1]),  # neither is better in anything
        ([], []),
    ],
)
def test_the_front_is_what_nothing_beats_at_its_price(points, front):
    assert pareto(points) == front


def test_labels_are_moved_apart_in_order():
    # .50 .51 .60: the second is pushed to .60, the third to .70; all go down by a mean of (.09 + .10) / 3
    moved = spread([0.6, 0.5, 0.51], 0.1)
    assert moved == pytest.approx([0.70 - 0.19 / 3, 0.50 - 0.19 / 3, 0.60 - 0.19 / 3])
    assert spread([0.1, 0.9], 0.1) == pytest.approx([0.1, 0.9])


def test_a_frontier_is_drawn_from_nothing_to_very_dear():
    plot = frontier("f", "t", [("free $\\frac{", 0.0, 0.5), ("dear", 1e6, 0.6), ("poor", 100.0, 0.6)], {0, 2}, "c", "q")
    assert plot.light.startswith(b"\x89PNG") and plot.light != plot.dark
