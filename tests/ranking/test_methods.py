"""Repetitions, long documents and fusion, as a rerank stage combines them."""

import pytest

from rl_rerank.config import FusionConfig, LongDocumentsConfig
from rl_rerank.engines.scripted import Scripted
from rl_rerank.paradigms.groupwise import Groupwise
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.ranking.driver import rerank, shuffled
from rl_rerank.ranking.methods import rank
from rl_rerank.stages.rerank.spec import RerankStage
from rl_rerank.types import Candidate, RankingExample


def example(qid="q", count=6):
    candidates = [Candidate(f"d{i}", f"text {i}", rank=i, score=float(-i)) for i in range(1, count + 1)]
    return RankingExample(qid, "query", tuple(candidates))


def positional():
    """Scores a document by its place in the prompt alone: 1, 2, 3, ..."""
    return Scripted(lambda p: "{" + ", ".join(f'"[{i}]": {i}' for i in range(1, len(p.docids) + 1)) + "}")


def test_one_shuffle_is_what_the_driver_does():
    asked = [example("q1"), example("q2", 4)]
    paradigm = Groupwise(size=3)
    [plain, _], [once, _] = (
        rerank(asked, paradigm, positional(), shuffle_seed=5),
        rank(asked, paradigm, positional(), RerankStage(kind="rerank", seed=5)),
    )
    assert [(r.docids, r.scores, r.num_prompts) for r in once] == [(r.docids, r.scores, r.num_prompts) for r in plain]


def test_candidates_can_be_shown_worst_first():
    copies = Scripted(lambda p: " > ".join(f"[{i}]" for i in range(1, len(p.docids) + 1)))
    stage = RerankStage(kind="rerank", shuffle=False, reverse=True)
    [ranking], [rollout] = rank([example(count=4)], Listwise(window=4), copies, stage)
    assert rollout.prompt.docids == ranking.docids == ("d4", "d3", "d2", "d1")
    with pytest.raises(ValueError, match="reverse=true needs shuffle=false"):
        RerankStage(kind="rerank", reverse=True)


def test_several_shuffles_are_asked_in_one_round_and_averaged_by_score(groups_in_order):
    asked = [example("q1", 3), example("q2", 3)]
    engine = positional()
    rankings, rollouts = rank(asked, Groupwise(size=3), engine, RerankStage(kind="rerank", seed=5, shuffles=4))
    assert engine.batch_sizes == [8]
    for ex, ranking in zip(asked, rankings, strict=True):
        shown = [shuffled(ex, 5, repeat).docids for repeat in range(4)]
        assert [r.prompt.docids for r in rollouts if r.prompt.qid == ex.qid] == shown
        # a document's score is the mean of its places over the four orders
        assert ranking.raw_scores == {d: sum(order.index(d) + 1 for order in shown) / 4 for d in ex.docids}
        assert ranking.num_prompts == 4


def test_orders_are_averaged_by_rank():
    # A model that answers with the order it is shown: mean places over the two orders
    engine = Scripted(lambda p: " > ".join(f"[{i}]" for i in range(1, len(p.docids) + 1)))
    [ranking], _ = rank([example(count=4)], Listwise(window=4), engine, RerankStage(kind="rerank", seed=2, shuffles=2))
    orders = [shuffled(example(count=4), 2, repeat).docids for repeat in range(2)]
    means = {d: sum(order.index(d) for order in orders) for d in orders[0]}
    assert list(ranking.docids) == sorted(orders[0], key=lambda d: means[d])
    assert ranking.raw_scores is None


def test_passages_are_ranked_one_by_one_and_their_documents_come_back():
    # MaxP over passages of one word: d1 has 1 and 9, d2 has 5
    texts = {"d1": "1 9", "d2": "5"}
    ex = RankingExample("q", "query", tuple(Candidate(d, t, rank=i) for i, (d, t) in enumerate(texts.items(), start=1)))
    engine = Scripted(lambda p: "", lambda p, text: (text == "yes") * float(p.messages[1].segments[-2].text))
    stage = RerankStage(kind="rerank", shuffles=2, long_documents=LongDocumentsConfig(mode="maxp", words=1, overlap=0))
    [ranking], rollouts = rank([ex], Pointwise(), engine, stage)
    assert ranking.raw_scores == {"d1": 9.0, "d2": 5.0}
    assert {r.prompt.docids for r in rollouts} == {("d1#1",), ("d1#2",), ("d2#1",)}
    assert ranking.num_prompts == 6


def test_fusion_uses_scores_also_of_documents_that_the_model_did_not_score(groups_in_order):
    # groups d1 d2 | d3 d4: 0 4 | none, behind d2 also 4; minmax 0 1 1 1, first stage -1 -2 -3 -4: 1 2/3 1/3 0
    # half and half: d1 .5, d2 5/6, d3 2/3, d4 .5
    engine = Scripted(lambda p: '{"[1]": 0, "[2]": 4}' if p.docids[0] == "d1" else "?")
    stage = RerankStage(kind="rerank", shuffle=False, fusion=FusionConfig(method="minmax", weight=0.5))
    [ranking], _ = rank([example(count=4)], Groupwise(size=2), engine, stage)
    assert ranking.raw_scores == pytest.approx({"d1": 1 / 2, "d2": 5 / 6, "d3": 2 / 3, "d4": 1 / 2})
    assert ranking.docids == ("d2", "d3", "d4", "d1")
    assert (ranking.num_prompts, ranking.num_fallbacks) == (2, 1)


def test_passages_of_an_order_are_refused():
    stage = RerankStage(kind="rerank", long_documents=LongDocumentsConfig(mode="sump"))
    with pytest.raises(ValueError, match=r"mode=sump makes .* and the paradigm 'listwise' gives no scores"):
        rank([example()], Listwise(), Scripted(lambda p: ""), stage)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"shuffles": 0}, "shuffles must be at least 1"),
        ({"retries": -1}, "retries must be at least 0"),
        ({"shuffles": 2, "shuffle": False}, "shuffles=2 needs shuffle=true"),
        ({"fuse": ["a"]}, "fuse names two rerank stages"),
        ({"fuse": ["a", "b"], "model": "grpo"}, "goes without a model"),
        ({"model": "first_stage", "fusion": FusionConfig()}, "cannot be fused with the first stage"),
    ],
)
def test_stages_that_make_no_sense_are_refused(settings, reason):
    with pytest.raises(ValueError, match=reason):
        RerankStage(kind="rerank", **settings)
