"""The teachers: what they answer, what is kept, and what a kill costs."""

import json
from pathlib import Path

import pytest

from rl_rerank.config import Config, SynthStage
from rl_rerank.engines.scripted import Scripted
from rl_rerank.paradigms.groupwise import Groupwise
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.stages.synth import StepContext
from rl_rerank.types import Candidate, Completion, Prompt, RankingExample
from rl_rerank_synth.labels import Labels
from rl_rerank_synth.model import LARGEST_BATCH, ModelTeacher
from rl_rerank_synth.questions import questions


def example(qid: str, grades: dict[str, int]) -> RankingExample:
    candidates = tuple(Candidate(docid, f"text of {docid}") for docid in grades)
    return RankingExample(qid, f"query {qid}", candidates, grades)


EXAMPLES = [example(f"q{n}", {"a": 0, "b": 2, "c": 1}) for n in range(40)]


def context(folder: Path, **stage) -> StepContext:
    return StepContext(Config(), SynthStage(kind="synth", **stage), folder)


def best_first(prompt: Prompt) -> str:
    return " > ".join(f"[{prompt.docids.index(docid) + 1}]" for docid in "bca")


@pytest.mark.parametrize("paradigm", [Pointwise(), Listwise(), Groupwise()], ids=lambda p: p.name)
def test_labels_answer_every_prompt_so_that_the_strict_parser_accepts_it(tmp_path, paradigm):
    made = context(tmp_path)
    rows = list(Labels()(EXAMPLES, paradigm.name, paradigm, 30, made))
    assert len(rows) == made.counts["kept"] == 30
    for row in rows:
        [asked] = [e for e in EXAMPLES if e.qid == row["qid"]]
        assert set(row) == {"qid", "paradigm", "docids", "target", "teacher"}
        assert (row["paradigm"], row["teacher"]) == (paradigm.name, "labels")
        judgment = paradigm.parse(paradigm.prompt(asked, row["docids"]), Completion(row["target"]), strict=True)
        assert judgment.is_ok
    assert len({(row["qid"], *row["docids"]) for row in rows}) == 30


def test_questions_are_seeded_never_repeated_and_end_where_there_are_no_more():
    found = [(e.qid, p.docids) for e, p in questions(EXAMPLES[:5], Pointwise(), 1)]
    assert found == [(e.qid, p.docids) for e, p in questions(EXAMPLES[:5], Pointwise(), 1)]
    assert found != [(e.qid, p.docids) for e, p in questions(EXAMPLES[:5], Pointwise(), 2)]
    assert len(set(found)) == len(found)
    # Five queries of three documents have 15 pointwise questions; the first pass asks two a query.
    assert 10 < len(found) <= 15
    assert len({qid for qid, _ in found[:10]}) == 5


def test_examples_of_one_grade_teach_nothing():
    assert list(questions([example("q", {"a": 1, "b": 1})], Listwise(), 1)) == []


def test_the_models_well_formed_and_good_answers_are_kept_and_the_rest_is_counted(tmp_path):
    # nDCG over b, c, a with grades 2, 1, 0: ideal = 2 + 1/log2(3) = 2.6309; the order a, c, b gains
    # 1/log2(3) + 2/log2(4) = 1.6309, that is .62.
    answers = {
        "q0": best_first,
        "q1": lambda prompt: " > ".join(f"[{prompt.docids.index(docid) + 1}]" for docid in "acb"),
        "q2": lambda prompt: "[1] > [1] > [2]",
        "q3": lambda prompt: "The best passage is [1].",
    }
    asked = [example(qid, {"a": 0, "b": 2, "c": 1}) for qid in answers]
    for min_ndcg, kept, filtered in [(0.0, {"q0", "q1"}, 0), (0.7, {"q0"}, 1)]:
        made = context(tmp_path / str(min_ndcg), min_ndcg=min_ndcg)
        made.engine = Scripted(lambda prompt: answers[prompt.qid](prompt))
        rows = list(ModelTeacher()(asked, "listwise", Listwise(), 100, made))
        assert {row["qid"] for row in rows} == kept
        assert made.counts["filtered"] >= filtered
        assert made.counts["malformed"] >= 2
        assert made.counts["kept"] == len(rows)
        assert bool(made.counts["filtered"]) == bool(filtered)
        for row in rows:
            assert row["target"] == answers[row["qid"]](Prompt(row["qid"], tuple(row["docids"]), ()))


def test_an_answer_about_one_document_is_good_if_it_agrees_with_the_labels(tmp_path):
    made = context(tmp_path, min_ndcg=0.5)
    made.engine = Scripted(lambda prompt: "yes")
    rows = list(ModelTeacher()(EXAMPLES, "pointwise", Pointwise(), 20, made))
    assert {row["docids"][0] for row in rows} <= {"b", "c"}
    assert (made.counts["kept"], len(rows)) == (20, 20)
    assert made.counts["filtered"] > 0
    free = context(tmp_path / "free")
    free.engine = Scripted(lambda prompt: "no")
    assert {r["docids"][0] for r in ModelTeacher()(EXAMPLES, "pointwise", Pointwise(), 60, free)} == {"a", "b", "c"}


def test_a_killed_teacher_goes_on_where_it_stopped_and_ends_with_the_same_rows(tmp_path):
    def run(folder: Path, count: int) -> tuple[list, int]:
        made = context(folder)
        made.engine = engine = Scripted(best_first)
        return list(ModelTeacher()(EXAMPLES, "listwise", Listwise(), count, made)), sum(engine.batch_sizes)

    whole, asked = run(tmp_path / "whole", 60)
    assert (len(whole), asked) == (60, 60)
    partial, asked = run(tmp_path / "killed", LARGEST_BATCH + 1)
    assert (partial, asked) == (whole[: LARGEST_BATCH + 1], LARGEST_BATCH + 4)
    journal = tmp_path / "killed/rows.partial.jsonl"
    # The kill hit while the last line was written: its answer is asked for once more.
    journal.write_bytes(journal.read_bytes()[:-7])
    resumed, asked = run(tmp_path / "killed", 60)
    assert (resumed, asked) == (whole, 60 - (LARGEST_BATCH + 3))
    assert len(journal.read_text().splitlines()) == 60


def test_answers_of_another_model_or_temperature_are_not_taken_from_the_journal(tmp_path):
    for temperature, expected in [(0.0, 5), (0.0, 0), (0.7, 5)]:
        made = context(tmp_path, temperature=temperature)
        made.engine = engine = Scripted(best_first)
        assert len(list(ModelTeacher()(EXAMPLES, "listwise", Listwise(), 5, made))) == 5
        assert sum(engine.batch_sizes) == expected
    other = context(tmp_path)
    other.config.model.path = "another"
    other.engine = engine = Scripted(best_first)
    list(ModelTeacher()(EXAMPLES, "listwise", Listwise(), 5, other))
    assert sum(engine.batch_sizes) == 5
    lines = (tmp_path / "rows.partial.jsonl").read_text().splitlines()
    assert all(set(json.loads(line)) == {"key", "text", "finish_reason"} for line in lines)


def test_a_model_that_never_gives_a_good_answer_is_not_asked_for_ever(tmp_path):
    made = context(tmp_path)
    made.engine = engine = Scripted(lambda prompt: "no idea")
    assert list(ModelTeacher()(EXAMPLES, "listwise", Listwise(), 1000, made)) == []
    # 40 examples: batches of 32 until at least 40 answers are in
    assert sum(engine.batch_sizes) == made.counts["malformed"] == 2 * LARGEST_BATCH
