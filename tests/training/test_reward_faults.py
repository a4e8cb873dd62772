"""A reward that raises, or returns no number, ends the stage with a sentence; the same command goes on."""

import shutil

import pytest
from support.resumption import arguments, begun, differences, prepare, steps, train

from rl_rerank.cli.main import main
from rl_rerank.io.files import read_jsonl

pytestmark = pytest.mark.slow

FAULTY = """\
import pathlib


class Faulty:
    def __call__(self, example, rollout):
        fault = pathlib.Path("fault")
        if fault.exists():
            what, qids = fault.read_text().split(":")
            if rollout.prompt.qid in qids.split():
                if what == "raises":
                    raise OSError("no judge")
                return float(what)
        text = rollout.completion.text
        return sum(c.isalpha() for c in text) / (1 + len(text))
"""
SENTENCES = {
    "raises": "reward 'faulty' failed for qid {qid!r} and the completion {text!r}: OSError: no judge",
    "nan": "reward 'faulty' returned nan for qid {qid!r} and the completion {text!r}; a reward must return a finite",
    "inf": "reward 'faulty' returned inf for qid {qid!r} and the completion {text!r}; a reward must return a finite",
}


@pytest.fixture(scope="module")
def folder(tiny_model_dir, tmp_path_factory):
    """A folder with an uninterrupted run, `whole`."""
    found = tmp_path_factory.mktemp("rewards")
    prepare(found, tiny_model_dir)
    (found / "faulty.py").write_text(FAULTY)
    train(begun(found, "whole"), tiny_model_dir, "tokens", REWARD)
    return found


REWARD = "reward=[faulty.py:Faulty]"


@pytest.mark.parametrize("fault", SENTENCES)
def test_a_faulty_reward_ends_the_stage_at_its_last_step_and_the_same_command_goes_on(
    folder, tiny_model_dir, monkeypatch, capsys, fault
):
    monkeypatch.chdir(folder)
    again = begun(folder, "again")
    rows = read_jsonl(folder / "whole/tokens/completions.jsonl")
    before = {row["qid"] for row in rows if row["step"] <= 2}
    third = [row for row in rows if row["step"] == 3 and row["qid"] not in before]
    (folder / "fault").write_text(f"{fault}:{' '.join(row['qid'] for row in third)}")
    command = ["grpo", *arguments(again, tiny_model_dir, "tokens"), REWARD, "stage=tokens"]
    try:
        assert main(command) == 2
    finally:
        (folder / "fault").unlink()
    shown = capsys.readouterr().err
    told = [SENTENCES[fault].format(qid=row["qid"], text=row["completion"][:200]) for row in third]
    assert any(sentence in shown for sentence in told), shown
    assert steps(again / "tokens") == [1, 2] and not (again / "tokens/model").exists()
    assert main(command) == 0
    assert differences(folder / "whole/tokens", again / "tokens") == []
    shutil.rmtree(again)
