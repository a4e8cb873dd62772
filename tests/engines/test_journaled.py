"""Never pay twice: what is asked of the engine behind a journal."""

from __future__ import annotations

import copy
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from rl_rerank.engines.journal import Journal
from rl_rerank.engines.journaled import Journaled
from rl_rerank.engines.local.hf import HFEngine
from rl_rerank.engines.scripted import Scripted
from rl_rerank.prompts.constraints import Permutation
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.types import Message, Prompt, Sampling, Segment

NUM_PROMPTS = 200


def ask(text: str) -> Prompt:
    return Prompt("q", ("d",), (Message("user", (Segment(text),)),))


PROMPTS = [ask(f"question {i}") for i in range(NUM_PROMPTS)]


def counted(folder: Path, identity: str = "m") -> tuple[Journaled, list[str]]:
    """An engine that answers with the number of its call, and the texts that it was sent."""
    sent: list[str] = []

    def answer(prompt: Prompt) -> str:
        sent.append(prompt.messages[0].segments[0].text)
        return str(len(sent))

    engine = Scripted(answer, lambda prompt, text: -float(len(answer(prompt)) + len(text)))
    return Journaled(engine, Journal(folder / "journal.sqlite"), {"model": identity}), sent


def texts(rows) -> list[list[str]]:
    return [[c.text for c in row] for row in rows]


def test_a_second_run_asks_nothing_and_answers_the_same(tmp_path):
    first, sent = counted(tmp_path)
    answers, scores = first.generate(PROMPTS, Sampling(4)), first.score(PROMPTS[:3], ["yes", "no"])
    assert len(sent) == NUM_PROMPTS + 3 * 2  # Scripted scores each continuation by itself.
    assert first.usage == {"asked": NUM_PROMPTS + 3, "from_journal": 0}
    first.close()
    again, sent = counted(tmp_path)
    assert (again.generate(PROMPTS, Sampling(4)), again.score(PROMPTS[:3], ["yes", "no"])) == (answers, scores)
    assert sent == []
    assert again.usage == {"asked": 0, "from_journal": NUM_PROMPTS + 3}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_three_samples_of_a_prompt_are_three_calls_and_one_more_is_a_fourth(tmp_path, temperature):
    engine, sent = counted(tmp_path)
    drawn = Sampling(4, temperature=temperature, num_generations=3)
    assert texts(engine.generate(PROMPTS[:1], drawn)) == [["1", "2", "3"]]
    four = Sampling(4, temperature=temperature, num_generations=4)
    assert texts(engine.generate(PROMPTS[:1], four)) == [["1", "2", "3", "4"]]
    assert len(sent) == 4


def test_a_prompt_that_occurs_again_is_sampled_on_and_asked_once_where_it_is_greedy(tmp_path):
    engine, sent = counted(tmp_path)
    assert texts(engine.generate(PROMPTS[:1] * 3, Sampling(4, temperature=1.0))) == [["1"], ["2"], ["3"]]
    assert texts(engine.generate(PROMPTS[:1], Sampling(4, temperature=1.0, num_generations=2))) == [["1", "2"]]
    assert len(sent) == 3
    assert texts(engine.generate(PROMPTS[:1] * 3, Sampling(4))) == [["4"], ["4"], ["4"]]
    assert len({c.continuations["yes"] for c in engine.score(PROMPTS[:1] * 3, ["yes"])}) == 1
    assert len(sent) == 5


def test_answers_come_in_the_order_of_the_prompts_whatever_was_known_before(tmp_path):
    engine, sent = counted(tmp_path)
    engine.generate(PROMPTS[1:9:2], Sampling(4))
    told = []
    answers = engine.generate(PROMPTS[:10], Sampling(4), lambda place, sample, c: told.append((place, sample, c)))
    assert sent[4:] == [f"question {i}" for i in (0, 2, 4, 6, 8, 9)]
    assert texts(answers) == [["5"], ["1"], ["6"], ["2"], ["7"], ["3"], ["8"], ["4"], ["9"], ["10"]]
    assert sorted(told) == [(place, 0, c) for place, [c] in enumerate(answers)]
    assert [place for place, *_ in told[:4]] == [1, 3, 5, 7]  # what is known needs no waiting


def test_another_model_sampling_or_list_of_continuations_is_asked_afresh(tmp_path):
    for identity, sampling, new in [
        ("m", Sampling(4), 1),
        ("m", Sampling(4), 0),
        ("m", Sampling(5), 1),
        ("m", Sampling(4, temperature=1.0), 1),
        ("m", Sampling(4, temperature=1.0, seed=1), 1),
        ("other", Sampling(4), 1),
    ]:
        engine, sent = counted(tmp_path, identity)
        engine.generate(PROMPTS[:1], sampling)
        assert len(sent) == new
        engine.close()
    for continuations, new in [(["yes"], 1), (["no"], 1), (["no"], 0)]:
        engine, sent = counted(tmp_path)
        engine.score(PROMPTS[:1], continuations)
        assert len(sent) == new


def test_another_template_is_asked_afresh(tmp_path, tiny_model_dir, chatml_tokenizer):
    journal, asked = Journal(tmp_path / "journal.sqlite"), []
    other = copy.deepcopy(chatml_tokenizer)
    other.chat_template = chatml_tokenizer.chat_template.replace("assistant", "answer")
    for tokenizer, budget in [(chatml_tokenizer, 512), (chatml_tokenizer, 512), (chatml_tokenizer, 256), (other, 512)]:
        plain = HFEngine(tiny_model_dir, Renderer(tokenizer, max_prompt_tokens=budget))
        engine = Journaled(plain, journal, {"weights": journal.weights(tiny_model_dir)})
        engine.score([ask("yes no " * 3)], ["yes"])
        asked.append(engine.usage["asked"])
    # The budget alone changes nothing where the prompt fits both.
    assert asked == [1, 0, 0, 1]


def test_a_journal_changes_no_answer_of_the_engine(tmp_path, tiny_model_dir, chatml_tokenizer):
    plain = HFEngine(tiny_model_dir, Renderer(chatml_tokenizer, max_prompt_tokens=512))
    prompts = [ask("yes"), ask("Rank the passages."), ask("yes")]
    engine = Journaled(plain, Journal(tmp_path / "journal.sqlite"), {})
    drawn = Sampling(5, temperature=1.0, num_generations=2, seed=3)
    engine.generate(prompts[1:2], drawn)
    for sampling in (drawn, Sampling(5)):
        for a, b in zip(engine.generate(prompts, sampling), plain.generate(prompts, sampling), strict=True):
            assert [c.token_ids for c in a] == [c.token_ids for c in b]
    for a, b in zip(engine.score(prompts, ["yes", "no"]), plain.score(prompts, ["yes", "no"]), strict=True):
        assert a.continuations == pytest.approx(b.continuations, abs=1e-5)


SLOW = """
import sys, time
from dataclasses import replace
from pathlib import Path
from rl_rerank.engines.journaled import Journaled
from rl_rerank.engines.scripted import Scripted
from rl_rerank.engines.journal import Journal
from rl_rerank.types import Prompt, Sampling

def answer(prompt):
    with open(sys.argv[1] + "/calls", "a") as calls:
        calls.write(prompt.qid + "\\n")
    time.sleep(0.01)
    return prompt.qid

engine = Journaled(Scripted(answer), Journal(Path(sys.argv[1]) / "journal.sqlite"), {"model": "slow"})
prompts = [Prompt(f"q{i}", ("d",), ()) for i in range(int(sys.argv[2]))]
assert [c.text for [c] in engine.generate(prompts, Sampling(4))] == [prompt.qid for prompt in prompts]
"""


def slow(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", SLOW, str(folder), str(NUM_PROMPTS)])


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines() if (folder / "calls").exists() else []


@pytest.mark.process
def test_a_run_that_is_killed_in_the_middle_pays_once_for_all_but_the_call_in_flight(tmp_path):
    running = slow(tmp_path)
    while len(calls(tmp_path)) < NUM_PROMPTS // 2:
        time.sleep(0.01)
    running.kill()
    running.wait()
    assert NUM_PROMPTS // 2 <= len(calls(tmp_path)) < NUM_PROMPTS
    assert slow(tmp_path).wait() == 0
    assert len(set(calls(tmp_path))) == NUM_PROMPTS
    assert len(calls(tmp_path)) <= NUM_PROMPTS + 1
    before = calls(tmp_path)
    assert slow(tmp_path).wait() == 0
    assert calls(tmp_path) == before


@pytest.mark.process
def test_two_runs_on_one_journal_both_end_with_all_answers(tmp_path):
    running = [slow(tmp_path), slow(tmp_path)]
    assert [process.wait() for process in running] == [0, 0]
    before = calls(tmp_path)
    assert len(before) <= 2 * NUM_PROMPTS
    assert slow(tmp_path).wait() == 0
    assert calls(tmp_path) == before


def test_an_answer_that_was_held_to_a_form_is_not_taken_for_a_free_one(tmp_path):
    engine, sent = counted(tmp_path)
    held = [replace(PROMPTS[0], constraint=form) for form in (None, Permutation(2), Permutation(3), Permutation(2))]
    assert texts(engine.generate(held, Sampling(4))) == [["1"], ["2"], ["3"], ["2"]]
    assert len(sent) == 3
