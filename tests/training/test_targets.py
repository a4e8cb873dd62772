"""Lists by grades, a teacher's scores or a gold order, without unjudged documents, and with weights from the data."""

import math
from dataclasses import replace

import pytest
import torch
from support.policies import policy as policy_of
from support.scores_objective import scores_objective
from transformers import AutoModelForCausalLM, TrainingArguments

from rl_rerank.config import CurriculumConfig, ListTargets, WeightsConfig
from rl_rerank.paradigms.first_token import FirstToken
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.training.exact.lists import ListCollator, lists, reading
from rl_rerank.training.exact.supervised import RankingTrainer
from rl_rerank.training.exact.weights import curriculum_of_documents, curriculum_of_pairs
from rl_rerank.training.losses.build import build_loss
from rl_rerank.types import Candidate, RankingExample

SCORES = {"a": -3.5, "b": 0.25, "c": 2.0, "d": 0.25}


def example(qid="q", grades=None, features=None, **more):
    candidates = tuple(
        Candidate(
            docid, f"text {docid} of {qid}", rank=rank, score=10.0 - rank, features=(features or {}).get(docid, {})
        )
        for rank, docid in enumerate("abcd", start=1)
    )
    return RankingExample(qid, f"question {qid}", candidates, grades or {}, **more)


@pytest.fixture
def renderer(chatml_tokenizer):
    return Renderer(chatml_tokenizer, max_prompt_tokens=300)


def drawn(renderer, examples, paradigm=None, *, count=1, size=None, with_answers=False, **settings):
    targets = ListTargets(**settings)
    paradigm = paradigm or Pointwise()
    return lists(
        examples, paradigm, renderer, count=count, size=size, seed=1, targets=targets, with_answers=with_answers
    )


def test_a_teachers_scores_are_the_targets_and_the_best_document_is_in_every_list(renderer):
    found = drawn(renderer, [example(scores=SCORES)], count=30, size=2, target="scores")
    assert {one.docids[0] for one in found} == {"c"} and {one.docids[1] for one in found} == {"a", "b", "d"}
    assert all(one.grades == tuple(SCORES[docid] for docid in one.docids) for one in found)
    [whole] = drawn(renderer, [example(scores=SCORES)], target="scores")
    assert whole.docids == ("a", "b", "c", "d") and whole.grades == (-3.5, 0.25, 2.0, 0.25)
    assert whole.example.qrels == {} and whole.example.scores == SCORES


def test_an_order_gives_the_grades_n_to_1_also_of_documents_that_are_no_candidates(renderer):
    order = ("c", "x", "a", "d", "b")
    [one] = drawn(renderer, [example(grades={"a": 3}, order=order)], target="order")
    assert one.grades == (3.0, 1.0, 5.0, 2.0)
    assert one.example.qrels == {"a": 3}


def test_answers_of_one_prompt_follow_the_target_and_answers_of_one_document_its_judgment(renderer):
    given = example(grades={"a": 1, "b": 0, "c": 0, "d": 0}, scores=SCORES)
    [one] = drawn(renderer, [given], FirstToken(), with_answers=True, target="scores")
    best = sorted(range(4), key=lambda i: -one.grades[i])
    assert renderer.tokenizer.decode(one.answers[0][:-1]) == " > ".join("ABCD"[i] for i in best)
    [one] = drawn(renderer, [given], with_answers=True, target="scores")
    assert [renderer.tokenizer.decode(answer[:-1]) for answer in one.answers] == ["yes", "no", "no", "no"]


def test_more_documents_than_letters_are_cut_to_a_window_of_different_targets(renderer):
    scores = {"a": 1.0, "b": 1.0, "c": 1.0, "d": 2.0}
    found = drawn(renderer, [example(scores=scores)], FirstToken(window=2), count=20, target="scores")
    assert all(sorted(one.grades) == [1.0, 2.0] for one in found)


@pytest.mark.parametrize(
    ("given", "settings", "says"),
    [
        (example(scores={"a": 1.0, "b": 2.0}), {"target": "scores"},
         "qid 'q', docid 'c': target=scores needs a teacher's score of every candidate, and this one has none"),
        (example(grades={"a": 1}), {"target": "scores"}, "qid 'q', docid 'a': target=scores needs a teacher's score"),
        (example(order=("b", "a")), {"target": "order"}, "qid 'q', docid 'c': target=order needs a place in the gold"),
        (example(grades={"a": 1, "b": 0}, scores=SCORES), {"target": "scores", "with_answers": True},
         "qid 'q', docid 'c': nobody has judged it, so the correct answer, which answer_weight trains, is not known"),
        (example(scores=dict.fromkeys("abcd", 1.5)), {"target": "scores"},
         "no training query has candidates of different scores"),
        (example(grades={"a": 1}), {"judged_only": True}, "no training query has candidates of different grades"),
        (example(grades={"a": 1}, features={"a": {"w": 1.0}}), {"weights": WeightsConfig(feature="w")},
         "qid 'q', docid 'b': weights.feature=w must be a finite number of at least 0; got None"),
        (example(grades={"a": 1}, features={d: {"w": "much"} for d in "abcd"}),
         {"weights": WeightsConfig(feature="w")}, "qid 'q', docid 'a': weights.feature=w must be a finite number"),
        (example(grades={"a": 1}, features={d: {"w": -1} for d in "abcd"}),
         {"weights": WeightsConfig(feature="w")}, "at least 0; got -1"),
    ],
)  # fmt: skip
def test_what_has_no_target_or_weight_is_named_before_any_list_is_made(renderer, given, settings, says):
    with pytest.raises(ValueError) as caught:
        drawn(renderer, [given], **settings)
    assert says in str(caught.value)


def test_a_curriculum_of_scores_needs_scores_of_the_first_stage(renderer):
    given = example(grades={"a": 1})
    given = replace(given, candidates=tuple(replace(c, score=None) for c in given.candidates))
    with pytest.raises(ValueError, match="the candidates of qid 'q' have none; reciprank needs their order only"):
        drawn(renderer, [given], curriculum=CurriculumConfig(kind="kdescore"))


HALF_JUDGED = [
    example("p", {"a": 0, "c": 2, "d": 1}),
    example("q", {"b": 1, "d": 0}),
    example("r", {"a": 1}),  # of one judged document nothing can be learned
]
SCORED = [replace(e, qrels={}, scores={docid: g + 0.5 for docid, g in e.qrels.items()}) for e in HALF_JUDGED]
ORDERED = [replace(e, qrels={}, order=tuple(sorted(e.qrels, key=lambda d, e=e: -e.qrels[d]))) for e in HALF_JUDGED]


def without_unjudged(given):
    """The examples as they would be if unjudged documents were no candidates."""
    known = [e.qrels or e.scores or e.order for e in given]
    return [
        replace(e, candidates=tuple(c for c in e.candidates if c.docid in some))
        for e, some in zip(given, known, strict=True)
    ]


def trainer(model, tmp_path, renderer, paradigm, found, loss, *, curriculum=None, answer_weight=0.3):
    return RankingTrainer(
        model=model,
        args=TrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True),
        data_collator=ListCollator(found, reading(paradigm, renderer), with_answers=answer_weight > 0),
        pad_id=0,
        loss=loss,
        answer_weight=answer_weight,
        curriculum=curriculum,
    )


@pytest.fixture
def model(tiny_model_dir):
    return AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)


@pytest.mark.parametrize("size", [None, 2])
@pytest.mark.parametrize("paradigm", [Pointwise(), FirstToken(window=3)], ids=lambda p: p.name)
@pytest.mark.parametrize(
    ("given", "target", "loss"),
    [(HALF_JUDGED, "grades", "softmax"), (SCORED, "scores", "mse"), (ORDERED, "order", "first")],
    ids=["grades", "scores", "order"],
)
def test_unjudged_documents_change_nothing_as_if_they_were_no_candidates(
    renderer, model, tmp_path, given, target, loss, paradigm, size
):
    settings = {"count": 9, "size": size, "target": target}
    found = drawn(renderer, given, paradigm, judged_only=True, **settings)
    expected = drawn(renderer, without_unjudged(given), paradigm, **settings)
    assert list(found) == list(expected)
    assert found.num_documents().tolist() == expected.num_documents().tolist()
    losses = []
    for some in (found, expected):
        run = trainer(model, tmp_path, renderer, paradigm, some, build_loss("test", loss, {}))
        model.zero_grad()
        value = run.compute_loss(model, run.data_collator([{"index": 0}, {"index": 1}]))
        value.backward()
        losses.append((value.detach(), [p.grad.clone() for p in model.parameters()]))
    assert torch.equal(losses[0][0], losses[1][0])
    assert all(torch.equal(one, other) for one, other in zip(losses[0][1], losses[1][1], strict=True))
    if target == "grades":  # by default they count as grade 0
        unlike = drawn(renderer, given, paradigm, **settings)
        assert list(unlike) != list(expected)


def test_by_default_nothing_has_changed(renderer):
    plain = lists(HALF_JUDGED, Pointwise(), renderer, count=9, size=3, seed=1)
    assert list(plain) == list(drawn(renderer, HALF_JUDGED, count=9, size=3))
    assert {len(one.docids) for one in plain} <= {3, 4} and {one.example.qid for one in plain} == {"p", "q", "r"}
    batch = ListCollator(plain, reading(Pointwise(), renderer), with_answers=False)([{"index": 0}])
    assert batch["item_weights"] is None and batch["signals"] is None


WEIGHTED = [
    example(
        "p", {"a": 0, "b": 2, "c": 1, "d": 0}, {d: {"seen": w} for d, w in zip("abcd", (1, 0.5, 0.01, 0), strict=True)}
    ),
    replace(
        example("q", {"a": 1, "b": 0}, {d: {"seen": 0.25} for d in "abcd"}),
        candidates=example("q", features={d: {"seen": 0.25} for d in "abcd"}).candidates[:2],
    ),
]


def test_weights_of_documents_come_from_a_feature_and_reach_the_loss(renderer, model, tmp_path):
    for config, expected in (
        (WeightsConfig(feature="seen"), {"p": (1.0, 0.5, 0.01, 0.0), "q": (0.25, 0.25)}),
        # 1 / max(.01, .05) = 20
        (WeightsConfig(feature="seen", inverse=True), {"p": (1.0, 2.0, 20.0, 20.0), "q": (4.0, 4.0)}),
        (WeightsConfig(feature="seen", inverse=True, floor=0.5), {"p": (1.0, 2.0, 2.0, 2.0), "q": (2.0, 2.0)}),
    ):
        found = drawn(renderer, WEIGHTED, count=2, weights=config)
        assert {one.example.qid: one.weights for one in found} == expected
        loss = build_loss("test", "softmax", {})
        run = trainer(model, tmp_path, renderer, Pointwise(), found, loss, answer_weight=0)
        batch = run.data_collator([{"index": 0}, {"index": 1}])
        value = run.compute_loss(model, batch).item()
        rows = []
        for one in found:  # each list alone and by hand: -sum_i w_i g_i / (sum_j g_j) log p_i
            ends = [model(torch.tensor([list(ids)])).logits[0, -1] for ids in one.prompts]
            read = reading(Pointwise(), renderer)
            logs = torch.stack([end[read.ids[0]] - end[read.ids[1]] for end in ends]).log_softmax(0)
            shares = [w * g / sum(one.grades) for w, g in zip(one.weights, one.grades, strict=True)]
            rows.append(-sum(share * log.item() for share, log in zip(shares, logs, strict=True)))
        assert value == pytest.approx(sum(rows) / 2, abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"floor": 0.0, "inverse": True}, "floor must be above 0"),
        ({"floor": 0.2}, "means nothing without inverse=true"),
    ],
)
def test_weights_that_mean_nothing_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        WeightsConfig(feature="seen", **settings)


def test_a_pair_weighs_by_the_first_stage_less_at_first_and_1_at_the_end():
    signals = torch.tensor([[1.0, 0.5, 0.25]])  # reciprocal ranks 1, 2, 4
    config = CurriculumConfig(kind="reciprank", steps=4)
    # D of (0, 1) is (1 - .5 + 1) / 2 = .75, of (1, 0) .25, of (0, 2) .875
    start = curriculum_of_pairs(signals, config, 0)[0]
    assert (start[0, 1].item(), start[1, 0].item(), start[0, 2].item()) == pytest.approx((0.75, 0.25, 0.875))
    # W = D + t / 4 (1 - D): .75 + .5 x .25
    assert curriculum_of_pairs(signals, config, 2)[0, 0, 1].item() == pytest.approx(0.875)
    anti = curriculum_of_pairs(signals, CurriculumConfig(kind="reciprank", steps=4, anti=True), 0)[0]
    assert (anti[0, 1].item(), anti[1, 0].item()) == pytest.approx((0.25, 0.75))
    for step in (4, 100):
        assert torch.equal(curriculum_of_pairs(signals, config, step), torch.ones(1, 3, 3))


def test_a_curriculum_weights_the_pairs_of_the_loss_by_the_trainers_step(renderer, model, tmp_path):
    given = [replace(WEIGHTED[1], qrels={"a": 0, "b": 1})]  # the second of the first stage is the better one: D = .25
    config = CurriculumConfig(kind="reciprank", steps=4)
    found = drawn(renderer, given, curriculum=config)
    assert found[0].signals == (1.0, 0.5)
    run = trainer(
        model,
        tmp_path,
        renderer,
        Pointwise(),
        found,
        build_loss("test", "ranknet", {}),
        curriculum=config,
        answer_weight=0,
    )
    plain = trainer(
        model,
        tmp_path,
        renderer,
        Pointwise(),
        drawn(renderer, given),
        build_loss("test", "ranknet", {}),
        answer_weight=0,
    )
    expected = plain.compute_loss(model, plain.data_collator([{"index": 0}])).item()
    for step, weight in ((0, 0.25), (1, 0.4375), (3, 0.8125), (4, 1.0), (9, 1.0)):
        run.state.global_step = step
        found = run.compute_loss(model, run.data_collator([{"index": 0}])).item()
        assert found == pytest.approx(weight * expected, rel=1e-5)
    assert expected == found


def test_a_document_weighs_by_its_signal_if_it_is_relevant_and_by_what_is_left_if_not():
    signals = torch.tensor([[1.0, 0.5, 0.25, 0.0]])  # the last one is padding
    relevant = torch.tensor([[False, True, False, False]])
    config = CurriculumConfig(kind="reciprank", steps=4)
    # D is 1 - 1, .5 and 1 - .25; in step 2 of 4 W = D + .5 (1 - D)
    assert curriculum_of_documents(signals, relevant, config, 0)[0, :3].tolist() == [0.0, 0.5, 0.75]
    assert curriculum_of_documents(signals, relevant, config, 2)[0, :3].tolist() == [0.5, 0.75, 0.875]
    anti = CurriculumConfig(kind="reciprank", steps=4, anti=True)
    assert curriculum_of_documents(signals, relevant, anti, 0)[0, :3].tolist() == [1.0, 0.5, 0.25]
    assert torch.equal(curriculum_of_documents(signals, relevant, config, 4), torch.ones(1, 4))


@pytest.mark.parametrize("relevant", [1, 2])
def test_a_pointwise_loss_weights_documents_by_what_it_takes_for_relevant(renderer, model, tmp_path, relevant):
    given = [replace(WEIGHTED[1], qrels={"a": relevant - 1, "b": relevant})]
    config = CurriculumConfig(kind="reciprank", steps=4)
    loss = build_loss("test", "bce", {"relevant": relevant})
    settings = {"curriculum": config, "answer_weight": 0}
    run = trainer(model, tmp_path, renderer, Pointwise(), drawn(renderer, given, curriculum=config), loss, **settings)
    batch = run.data_collator([{"index": 0}])
    plain = trainer(model, tmp_path, renderer, Pointwise(), drawn(renderer, given), loss, answer_weight=0)
    labels = plain.scored(model, plain.data_collator([{"index": 0}])["packed"])
    scores = plain.reading.scores(labels, batch)[0]
    signs = [1 if grade >= relevant else -1 for grade in batch["grades"][0].tolist()]
    each = [torch.nn.functional.softplus(-sign * score) for sign, score in zip(signs, scores, strict=True)]
    # a, the first of the first stage, is not relevant: D = 1 - 1. b, the second, is: D = 1 / 2.
    for step, weights in ((0, {-1: 0.0, 1: 0.5}), (2, {-1: 0.5, 1: 0.75}), (4, {-1: 1.0, 1: 1.0})):
        expected = sum(weights[sign] * one for sign, one in zip(signs, each, strict=True)) / 2
        run.state.global_step = step
        assert run.compute_loss(model, batch).item() == pytest.approx(expected.item(), rel=1e-5)
        run.log(logs := {})
        assert (logs["curriculum/weight/min"], logs["curriculum/weight/max"]) == pytest.approx(
            (weights[-1], weights[1])
        )


def test_the_weights_of_a_steps_pairs_are_logged(renderer, model, tmp_path):
    given = [replace(WEIGHTED[1], qid=qid, qrels=qrels) for qid, qrels in (("q", {"b": 1}), ("r", {"a": 1}))]
    config = CurriculumConfig(kind="reciprank", steps=4)
    found = drawn(renderer, given, count=2, curriculum=config)
    loss = build_loss("test", "ranknet", {})
    run = trainer(model, tmp_path, renderer, Pointwise(), found, loss, curriculum=config, answer_weight=0)
    # Reciprocal ranks 1 and .5 give the eases .25 and .75; in step 2 of 4 the weights are .625 and .875.
    for step, mean, low, high in ((0, 0.5, 0.25, 0.75), (2, 0.75, 0.625, 0.875), (4, 1, 1, 1)):
        run.state.global_step = step
        for index in (0, 1):  # micro-batches of one list
            run.compute_loss(model, run.data_collator([{"index": index}]))
        logs = {}
        run.log(logs)
        assert logs["curriculum/weight"] == pytest.approx(mean)
        assert (logs["curriculum/weight/min"], logs["curriculum/weight/max"]) == pytest.approx((low, high))
    plain = trainer(model, tmp_path, renderer, Pointwise(), drawn(renderer, given), loss, answer_weight=0)
    plain.compute_loss(model, plain.data_collator([{"index": 0}]))
    plain.log(logs := {})
    assert not [name for name in logs if "curriculum" in name]


def test_a_loss_takes_its_course_by_the_trainers_steps(renderer, model, tmp_path):
    given = [example(order=("c", "a", "d", "b"))]
    found = drawn(renderer, given, target="order")
    grows = build_loss("test", "skip_ranknet", {"skips": 3, "first_skips": 1})
    run = trainer(model, tmp_path, renderer, Pointwise(), found, grows, answer_weight=0)
    run.state.max_steps = 9
    for step, skips in ((0, 1), (2, 1), (3, 2), (6, 3), (8, 3)):
        plain = build_loss("test", "skip_ranknet", {"skips": skips})
        other = trainer(model, tmp_path, renderer, Pointwise(), found, plain, answer_weight=0)
        run.state.global_step = step
        values = [one.compute_loss(model, one.data_collator([{"index": 0}])).item() for one in (run, other)]
        assert values[0] == pytest.approx(values[1], rel=1e-6), step


def test_the_loss_beside_rewards_reads_targets_and_weights_too(chatml_tokenizer, model):
    config = CurriculumConfig(kind="reciprank", steps=4)
    targets = ListTargets(target="scores", weights=WeightsConfig(feature="seen"), curriculum=config)
    scores = [{d: math.sin(n + 3.0 * i) for i, d in enumerate(e.docids)} for n, e in enumerate(WEIGHTED)]
    given = [replace(e, scores=s) for e, s in zip(WEIGHTED, scores, strict=True)]
    loss = build_loss("test", "margin_mse", {})
    settings = {"examples": given, "count": 2, "temperature": 2.0}
    objective = scores_objective(
        chatml_tokenizer, targets=targets, loss=loss, loss_weight=0.5, curriculum=config, **settings
    )
    plain = scores_objective(chatml_tokenizer, targets=ListTargets(target="scores"), **settings)
    batch = objective.collate([{"index": 0}, {"index": 1}])
    policy = policy_of(objective, model, batch)
    assert torch.equal(batch["grades"], plain.collate([{"index": 0}, {"index": 1}])["grades"])
    for row, mask, one in zip(batch["grades"], batch["mask"], objective.lists, strict=True):
        assert row[mask].tolist() == pytest.approx(list(one.grades))
    expected = loss(
        policy * 2,  # scores are divided by the temperature
        batch["grades"],
        batch["mask"],
        item_weights=batch["item_weights"],
        pair_weights=curriculum_of_pairs(batch["signals"], config, 1),
    ).mean()
    outcome, without = objective.outcome(batch, policy, None, 2), plain.outcome(batch, policy, None, 2)
    assert outcome.metrics["ranking_loss"] == pytest.approx(expected.item())
    assert outcome.loss.item() == pytest.approx(without.loss.item() + 0.5 * expected.item(), rel=1e-5)
    # rewards see the example with its own judgments and the teacher's scores
    assert objective.lists[0].example.qrels and objective.lists[0].example.scores in scores
