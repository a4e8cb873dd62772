"""The tiers of docs/systems.md, computed from run folders."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from rl_rerank.io.files import write_json, write_jsonl, write_text

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)  # its scripts import each other
    return importlib.import_module("systems_page")


def named(pages: Any, name: str) -> Any:
    [system] = [system for system in pages.SYSTEMS if system.name == name]
    return system


def compared(system: str, baseline: str, difference: float, p: float) -> dict[str, Any]:
    interval = [difference - 0.02, difference + 0.02]
    return {
        "system": system,
        "baseline": baseline,
        "measure": "nDCG@10",
        "difference": difference,
        "interval": interval,
        "p_value": p / 2,
        "p_value_holm": p,
    }


def leave(folder: Path, rows: dict[str, float], *, count: int, comparisons: Any = (), checks: Any = (True,)) -> None:
    """Write what a finished run has, as far as the page reads it."""
    found = [{"run": run, "label": run, "num_queries": count, "mean": {"nDCG@10": mean}} for run, mean in rows.items()]
    values = {run: {f"q{n}": {"nDCG@10": mean} for n in range(count)} for run, mean in rows.items()}
    write_json(
        folder / "evaluate/metrics.json",
        {"measures": ["nDCG@10"], "rows": found, "per_query": values, "comparisons": list(comparisons)},
    )
    write_json(
        folder / "mechanism/checks.json",
        [
            *({"what": "a mechanism", "passed": passed, "found": "1 of 1", "is_quality": False} for passed in checks),
            {"what": "learned", "passed": False, "found": "p = 1", "is_quality": True},
        ],
    )
    write_text(folder / "mechanism/checks.md", "| | expected | found |\n")
    write_jsonl(folder / "ledger.jsonl", [{"stage": "sft", "seconds": 90.0}])


def test_every_system_is_an_experiment_with_the_rows_that_the_page_names(pages):
    experiments = {path.stem for path in (BENCHMARKS.parent / "conf/experiment").glob("*.yaml")}
    for system in pages.SYSTEMS:
        assert system.name in experiments
        config = pages.compose("run", [f"experiment={system.name}", "scale=cpu", "report_to=[]"])
        assert {*system.stages, *([system.learns] if system.learns else [])} <= config.stages.keys()
        assert not system.learns or "untrained" in config.stages


@pytest.mark.parametrize(
    ("p", "difference", "count", "checks", "tier", "said"),
    [
        (0.01, 0.1, 100, (True, True), "learns here", "nDCG@10 +0.100 against untrained, p = 0.01 (100 queries)"),
        (0.05, 0.1, 100, (True,), "mechanics", "nDCG@10 +0.100 against untrained, p = 0.05"),
        (0.01, -0.1, 100, (True,), "mechanics", "nDCG@10 -0.100 against untrained, p = 0.01"),
        (0.01, 0.1, 99, (True,), "mechanics", "99 held-out queries"),
        (0.01, 0.1, 100, (True, False), "none", "1 of 2 checks of mechanisms pass"),
        (0.01, 0.1, 100, (), "none", "0 of 0 checks of mechanisms pass"),
    ],
)
def test_a_supervised_system_learns_if_it_beats_the_untrained_model(
    pages, tmp_path, p, difference, count, checks, tier, said
):
    rows = {"untrained": 0.4, "softmax_eval": 0.5}
    comparisons = [compared("softmax_eval", "untrained", difference, p)]
    leave(tmp_path / "losses", rows, count=count, comparisons=comparisons, checks=checks)
    assert pages.tier(named(pages, "losses"), tmp_path) == (tier, said)


@pytest.mark.parametrize(
    ("against_twin", "tier"), [((0.1, 0.01), "learns here"), ((0.1, 0.2), "mechanics"), (None, "mechanics")]
)
def test_a_system_with_a_reward_has_to_beat_its_permuted_twin_too(pages, tmp_path, against_twin, tier):
    assert pages.baselines("prorank") == ["untrained", "permuted_eval"]
    comparisons = [compared("warmup_eval", "untrained", 0.1, 0.001)]
    if against_twin is not None:
        comparisons.append(compared("warmup_eval", "permuted_eval", *against_twin))
    leave(tmp_path / "prorank", {"untrained": 0.4, "warmup_eval": 0.5}, count=100, comparisons=comparisons)
    found = pages.tier(named(pages, "prorank"), tmp_path)
    assert found.name == tier and "permuted_eval" in found.reason


def test_a_reward_without_a_twin_shows_mechanics_alone(pages, tmp_path):
    comparisons = [compared("grpo_eval", "untrained", 0.1, 0.001)]
    leave(tmp_path / "reasonrank", {"untrained": 0.4, "grpo_eval": 0.5}, count=100, comparisons=comparisons)
    assert pages.tier(named(pages, "reasonrank"), tmp_path) == ("mechanics", "no twin on permuted rewards")


@pytest.mark.parametrize(
    ("value", "count", "tier"), [(0.72, 43, "reproduced"), (0.70, 43, "not run"), (0.727, 42, "not run")]
)
def test_published_weights_reproduce_their_number_on_as_many_queries(pages, tmp_path, value, count, tier):
    leave(tmp_path / "rank_r1-published", {"first_stage": 0.5, "published": value}, count=count)
    assert pages.tier(named(pages, "rank_r1"), tmp_path).name == tier


def test_the_page_has_a_row_for_every_system_and_the_numbers_of_those_that_ran(pages, tmp_path):
    comparisons = [compared("softmax_eval", "untrained", 0.1, 0.01)]
    rows = {"first_stage": 0.3, "untrained": 0.4, "softmax_eval": 0.5}
    leave(tmp_path / "losses", rows, count=100, comparisons=comparisons)
    page = pages.page(tmp_path, [])
    for system in pages.SYSTEMS:
        [row] = [line for line in page.splitlines() if line.startswith(f"| {system.title} |")]
        assert row.count(" | ") == 8
        assert (" | learns here | " if system.name == "losses" else " | not run | ") in row
    assert "| 1 of 1 | 1.5 |" in page
    assert "nDCG@10 on 100 held-out queries of the data at hand: first_stage 0.300, untrained 0.400," in page
    assert "softmax_eval against untrained: +0.100 [+0.080, +0.120], p = 0.005, by Holm 0.01." in page
