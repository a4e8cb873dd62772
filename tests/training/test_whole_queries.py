"""On one, two and three processes a reward of whole queries sees exactly N x G completions of each."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from support.whole_queries import DOCUMENTS, GENERATIONS, STEPS, WORLDS, layouts

from rl_rerank.training.loop.checkpoints import PARTIAL

pytestmark = pytest.mark.process

SCRIPT = str(Path(__file__).parents[1] / "support/whole_queries.py")


@pytest.fixture(scope="module")
def folder(tiny_model_dir, tmp_path_factory):
    """What the script writes."""
    found = tmp_path_factory.mktemp("whole_queries")
    command = [sys.executable, SCRIPT, str(tiny_model_dir), str(found)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return found


def seen_by(folder, processes):
    return [json.loads((folder / f"seen{rank}of{processes}.json").read_text()) for rank in range(processes)]


@pytest.mark.parametrize("processes", WORLDS)
def test_a_query_reward_sees_every_completion_of_a_query_under_every_layout(folder, processes):
    seen = seen_by(folder, processes)
    assert len(layouts(processes)) >= 3
    for prompts, micro in layouts(processes):
        calls = [call for rank in seen for call in rank[f"{prompts}x{micro}"][0]]
        for qid, docids in calls:
            assert len(docids) == DOCUMENTS * GENERATIONS
            assert set(Counter(docids).values()) == {GENERATIONS}
            assert all(docid.startswith(f"{qid}d") for docid in docids)
        # Every query of every step was seen, by each process that has rows of it.
        assert len(calls) >= STEPS * prompts // DOCUMENTS
        _, rows, logged = seen[0][f"{prompts}x{micro}"]
        assert len(rows) == prompts * GENERATIONS
        for start in range(0, len(rows), DOCUMENTS * GENERATIONS):
            # Values come back to the completions that they are for: 0, 1, 2, ... along the query.
            assert [row[2] for row in rows[start : start + DOCUMENTS * GENERATIONS]] == list(range(12))
        # 0..11 for each query: every group of two differs
        assert logged["rewards/seen/min"] == 0 and logged["rewards/seen/max"] == 11
        assert logged["rewards/seen/mean"] == 5.5 and logged["rewards/seen/constant_groups"] == 0
        assert logged["rewards/seen/seconds"] >= 0


@pytest.mark.parametrize("processes", WORLDS)
def test_a_reward_that_fails_on_one_process_stops_all_of_them_behind_a_checkpoint(folder, processes):
    failures = {seen["failure"] for seen in seen_by(folder, processes)}
    assert len(failures) == 1
    assert re.match(r"reward 'fails' failed for qid 'q\d' and the completion .*: KeyError: 'no such", failures.pop())
    # Written aside, where the stage's last callback, which this trainer has not, would finish it.
    written = folder / f"fails{processes}" / PARTIAL / "checkpoint-1"
    state = json.loads((written / "trainer_state.json").read_text())
    assert state["global_step"] == 1


def test_queries_lie_on_several_processes_in_some_layouts():
    # one query of 6 prompts on 2 processes is 3 on each, on 3 processes 2
    assert (DOCUMENTS, GENERATIONS) in layouts(2)
    assert (DOCUMENTS, GENERATIONS) in layouts(3)
