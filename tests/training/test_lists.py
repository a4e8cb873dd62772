"""Lists as rows, their scores out of logits, and training by a ranking loss."""

import math

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, TrainingArguments

from rl_rerank.packed.forward import plainly_scored
from rl_rerank.paradigms.first_token import FirstToken
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.training.exact.lists import ListCollator, RankedList, lists, reading
from rl_rerank.training.exact.supervised import RankingTrainer
from rl_rerank.training.losses.build import build_loss
from rl_rerank.types import Candidate, RankingExample


def example(qid, grades):
    candidates = tuple(Candidate(f"{qid}d{i}", f"passage {i} of {qid}") for i in range(len(grades)))
    return RankingExample(qid, f"question {qid}", candidates, {f"{qid}d{i}": g for i, g in enumerate(grades)})


@pytest.fixture
def renderer(chatml_tokenizer):
    return Renderer(chatml_tokenizer, max_prompt_tokens=300)


def test_a_list_is_one_best_document_and_some_of_lower_grades(renderer):
    examples = [example("a", [0, 2, 0, 1, 2, 0]), example("b", [0, 0]), example("c", [0, 1])]
    found = lists(examples, Pointwise(), renderer, count=40, size=3, seed=1)
    assert len(found) == 40
    long = [one for one in found if len(one.docids) == 3]  # b has one grade only and c two documents
    assert len(long) == 20
    for one in long:
        assert one.grades[0] == 2 and max(one.grades[1:]) < 2
        [yes], [no] = renderer.continuation_ids("yes"), renderer.continuation_ids("no")
        assert one.answers == tuple((yes if grade >= 1 else no, renderer.end_id) for grade in one.grades)
        shown = [one.example.candidate(docid).text for docid in one.docids]
        texts = [renderer.tokenizer.decode(ids) for ids in one.prompts]
        assert all(text in prompt for text, prompt in zip(shown, texts, strict=True))
    assert len({one.docids for one in long}) > 5
    assert list(found) == list(lists(examples, Pointwise(), renderer, count=40, size=3, seed=1))
    [whole] = lists(examples[:1], Pointwise(), renderer, count=1, size=None, seed=1)
    assert whole.grades == (0, 2, 0, 1, 2, 0)


def test_one_prompt_shows_all_documents_in_random_order_and_no_more_than_it_has_letters_for(renderer):
    examples = [example("a", [0, 2, 0, 1, 2, 0])]
    found = lists(examples, FirstToken(window=4), renderer, count=30, size=None, seed=1)
    assert {len(one.prompts) for one in found} == {1} and {len(one.docids) for one in found} == {4}
    assert len({one.docids for one in found}) > 20
    for one in found:
        assert len(set(one.grades)) > 1
        best = sorted(range(4), key=lambda i, one=one: -one.grades[i])
        assert renderer.tokenizer.decode(one.answers[0][:-1]) == " > ".join("ABCD"[i] for i in best)
    [one] = lists(examples, FirstToken(), renderer, count=1, size=3, seed=1)
    assert sorted(one.grades, reverse=True)[0] == 2 and len(one.docids) == 3


def test_lists_need_candidates_of_different_grades(renderer):
    with pytest.raises(ValueError, match="no training query has candidates of different grades"):
        lists([example("b", [1, 1])], Pointwise(), renderer, count=1, size=None, seed=1)


def test_scores_that_are_several_tokens_are_refused(renderer):
    with pytest.raises(ValueError, match=r"'absolutely relevant' is \d+ tokens"):
        reading(Pointwise(positive="absolutely relevant"), renderer)


@pytest.mark.parametrize("with_answers", [False, True])
@pytest.mark.parametrize("paradigm", [Pointwise(), FirstToken(window=4)])
def test_scores_are_those_of_each_prompt_alone(renderer, tiny_model_dir, paradigm, with_answers):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    found = lists([example("a", [0, 1, 2]), example("bb", [1, 0])], paradigm, renderer, count=2, size=None, seed=1)
    read = reading(paradigm, renderer)
    batch = ListCollator(found, read, with_answers=with_answers)([{"index": 0}, {"index": 1}])
    scores = read.scores(plainly_scored(model, batch["packed"].sequences, pad_id=0), batch)
    assert batch["index"] == [0, 1]
    for row, one in enumerate(found):
        n = len(one.docids)
        assert batch["mask"][row].tolist() == [True] * n + [False] * (3 - n)
        assert batch["grades"][row, :n].tolist() == list(one.grades)
        ends = [model(torch.tensor([ids])).logits[0, -1] for ids in one.prompts]
        if isinstance(paradigm, FirstToken):
            expected = [ends[0][token].item() for token in read.ids[:n]]
        else:
            expected = [(end[read.ids[0]] - end[read.ids[1]]).item() for end in ends]
        assert scores[row].tolist() == pytest.approx([*expected, *[0.0] * (3 - n)], abs=1e-5)


def trainer(model, tmp_path, read, found, *, name="softmax", answer_weight=0.0):
    return RankingTrainer(
        model=model,
        args=TrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True),
        data_collator=ListCollator(found, read, with_answers=answer_weight > 0),
        pad_id=0,
        loss=build_loss("test", name, {}),
        answer_weight=answer_weight,
    )


def test_the_loss_is_the_ranking_loss_and_the_weighted_cross_entropy_of_the_answers(renderer, tiny_model_dir, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    [yes], [no], end = renderer.continuation_ids("yes"), renderer.continuation_ids("no"), renderer.end_id
    # Prompts of different lengths, so that the second row is padded; its answer is "no".
    one = RankedList(example("a", [1, 0]), ("ad0", "ad1"), (1.0, 0.0), ((5, 6, 7), (8, 9)), ((yes, end), (no, end)))
    rows = [torch.log_softmax(model(torch.tensor([ids])).logits[0], -1) for ids in ([5, 6, 7, yes], [8, 9, no])]
    # scores s1, s2 with grades 1, 0: log(1 + exp(s2 - s1)); answers: the mean over "yes", "no" and two end tokens
    scores = [row[-2, yes] - row[-2, no] for row in rows]
    ranking = torch.log1p((scores[1] - scores[0]).exp())
    answering = -(rows[0][-2, yes] + rows[0][-1, end] + rows[1][-2, no] + rows[1][-1, end]) / 4
    read = reading(Pointwise(), renderer)
    for weight in (0.0, 0.5):
        run = trainer(model, tmp_path, read, [one], answer_weight=weight)
        found = run.compute_loss(model, run.data_collator([{"index": 0}])).item()
        assert found == pytest.approx((ranking + weight * answering).item(), abs=1e-5)
        logged: dict[str, float] = {}
        run.log(logged)
        share = sum(row[-2, [yes, no]].exp().sum().item() for row in rows) / 2
        assert logged["answer_share"] == pytest.approx(share, rel=1e-4)


@pytest.mark.parametrize("labels", ["letters", "bracketed"])
def test_first_is_the_weighted_pairs_and_the_language_models_loss_of_the_whole_order(
    renderer, tiny_model_dir, tmp_path, labels
):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    paradigm = FirstToken(window=2, labels=labels)
    [one] = lists([example("a", [0, 1])], paradigm, renderer, count=1, size=None, seed=1)
    run = trainer(model, tmp_path, reading(paradigm, renderer), [one], name="first", answer_weight=0.1)
    logits = model(torch.tensor([[*one.prompts[0], *one.answers[0]]])).logits[0, len(one.prompts[0]) - 1 : -1]
    [best] = [i for i, grade in enumerate(one.grades) if grade]
    read = reading(paradigm, renderer)
    assert tuple(one.answers[0][: len(read.opening)]) == read.opening
    assert len(read.opening) == (labels == "bracketed")  # the bracket, behind which letters are scored
    letters = logits[len(read.opening), list(read.ids)].tolist()
    pair = math.log1p(math.exp(letters[1 - best] - letters[best])) / 3
    answer = torch.nn.functional.cross_entropy(logits, torch.tensor(one.answers[0])).item()
    assert run.compute_loss(model, run.data_collator([{"index": 0}])).item() == pytest.approx(
        pair + 0.1 * answer, abs=1e-5
    )


@pytest.mark.parametrize("paradigm", [Pointwise(), FirstToken(window=4), FirstToken(window=4, labels="bracketed")])
def test_a_ranking_loss_moves_no_token_of_the_head_that_is_not_read(renderer, tiny_model_dir, tmp_path, paradigm):
    config = AutoConfig.from_pretrained(tiny_model_dir, tie_word_embeddings=False)
    model = AutoModelForCausalLM.from_config(config)
    found = lists([example("a", [0, 1, 2])], paradigm, renderer, count=1, size=None, seed=1)
    run = trainer(model, tmp_path, reading(paradigm, renderer), found)
    run.compute_loss(model, run.data_collator([{"index": 0}])).backward()
    # Exactly: an optimizer that divides by a gradient's size makes steps of rounding errors.
    moved = model.lm_head.weight.grad.abs().amax(1).nonzero().squeeze(1).tolist()
    assert moved == sorted(run.reading.ids[: 3 if run.reading.together else 2])
