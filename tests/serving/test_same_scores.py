"""Equal, empty, many and very long documents: scores stay scores by each door of a pointwise export."""

from __future__ import annotations

import math
from contextlib import ExitStack

import pytest
from support.exported import export
from support.served import listening

from rl_rerank.paradigms.build import make
from rl_rerank.serving import Reranker, contract, sequence_classification
from rl_rerank.serving.contract import GoldenScores
from rl_rerank.serving.doors.http import RerankDoor
from rl_rerank.serving.doors.opening import opened

pytestmark = pytest.mark.slow
pytest.importorskip("sentence_transformers")

DOORS = ("hf", "cross_encoder", "seqcls", "server")


@pytest.fixture(scope="module")
def doors(tiny_model_dir, tmp_path_factory):
    folder = export(tiny_model_dir, tmp_path_factory.mktemp("doors") / "model", make("pointwise", {}))
    terms = contract.read(folder)
    sequence_classification.write(folder, terms)
    with ExitStack() as ends:
        address = ends.enter_context(listening(Reranker.load(folder)))
        yield {name: opened(folder, terms, name, False) for name in DOORS[:3]} | {"server": RerankDoor(address)}


def scores(doors, name, documents) -> list[float]:
    return doors[name].answer(GoldenScores(query="caves in winter", documents=documents, scores=[])).scores


@pytest.fixture(scope="module")
def alone(doors) -> float:
    """The score of a document by itself."""
    return scores(doors, "hf", ["ice caves"])[0]


@pytest.mark.parametrize("name", DOORS)
@pytest.mark.parametrize("count", [2, 1000])
def test_equal_documents_have_one_score(doors, alone, name, count):
    """Ranks in their place would be 1,000 different values."""
    found = scores(doors, name, ["ice caves"] * count)
    assert found == pytest.approx([alone] * count, abs=1e-4)


@pytest.mark.parametrize("name", DOORS)
def test_an_empty_document_among_ten_changes_no_other_score(doors, alone, name):
    others = [f"bread number {i}" for i in range(8)]
    expected = scores(doors, "hf", ["ice caves", *others])
    empty, *found = scores(doors, name, ["", "ice caves", *others])
    assert found == pytest.approx(expected, abs=1e-4)
    assert found[0] == pytest.approx(alone, abs=1e-4)
    assert len({round(score, 4) for score in found}) > 5  # a random model tells documents apart
    assert math.isfinite(empty)


@pytest.mark.parametrize("name", [name for name in DOORS if name != "seqcls"])  # which cuts nothing
def test_a_document_of_a_megabyte_is_cut(doors, alone, name):
    found = scores(doors, name, ["ice " * 2**18, "ice caves"])
    assert found[1] == pytest.approx(alone, abs=1e-4)
    assert abs(found[0]) < 2  # a random model's log-odds
