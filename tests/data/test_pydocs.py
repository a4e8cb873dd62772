"""The embedded collection, on a part of numpy that is quick to read."""

import sys

import pytest

from rl_rerank.config import DataConfig
from rl_rerank.data import near_duplicates, prepare
from rl_rerank.data.sources.pydocs import PyDocs

PACKAGES = ("numpy.linalg", "numpy.ma")

MODULE = '''\
"""A module with documented functions."""
import os.path as path

def double(x):
    """Multiply a number by two.

    The function double works on integers.

    See Also
    --------
    halve : The inverse.
    absent : Not there.
    """

again = double

def twice(x):
    """Multiply a number by two.

    Does what its neighbour does, later.

    See Also
    --------
    shape
    """

def halve(x):
    """Divide a number by two, rounding down.

    Integers only, since made_up.halve drops the remainder.
    """

def shape(x):
    """Give shape.

    Too short a summary for a query, yet a document of some words.
    """

def terse(x):
    """Do something that nobody describes further."""

def _private(x):
    """Be invisible to everyone who looks.

    This must not be in the collection at all.
    """
'''


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    """A package whose documentation is known."""
    (tmp_path / "made_up.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield PyDocs(("made_up",)).read()
    sys.modules.pop("made_up", None)


def test_aliases_are_one_document_and_functions_of_one_summary_are_one_query(made_up):
    assert [(query.qid, query.text) for query in made_up.queries] == [
        ("q:made_up.again", "Multiply a number by two."),
        ("q:made_up.halve", "Divide a number by two, rounding down."),
    ]
    assert list(made_up.documents) == ["made_up.again", "made_up.halve", "made_up.shape", "made_up.twice"]


def test_twins_have_grade_2_and_what_see_also_names_has_grade_1(made_up):
    assert made_up.qrels == {
        "q:made_up.again": {"made_up.again": 2, "made_up.twice": 2, "made_up.halve": 1, "made_up.shape": 1},
        "q:made_up.halve": {"made_up.halve": 2},
    }


def test_documents_say_neither_their_summary_nor_their_name_nor_see_also(made_up):
    assert made_up.documents["made_up.again"].text == "The function works on integers."
    assert made_up.documents["made_up.halve"].text == "Integers only, since drops the remainder."
    assert {docid: document.title for docid, document in made_up.documents.items()} == {
        "made_up.again": "again",
        "made_up.halve": "halve",
        "made_up.shape": "shape",
        "made_up.twice": "twice",
    }


@pytest.mark.usefixtures("made_up")
def test_names_can_be_left_out():
    documents = PyDocs(("made_up",), names=False).read().documents
    assert {document.title for document in documents.values()} == {""}


def test_docstrings_without_a_body_are_counted(made_up):
    [warning] = made_up.warnings
    assert warning.startswith(
        "docstrings left out, because they have a summary and nothing else: 1 (first: made_up.terse"
    )


def test_reading_numpy_twice_gives_the_same_collection():
    source = PyDocs(PACKAGES)
    found = source.read()
    assert source.read() == found
    assert len(found.queries) > 100
    assert all(len(query.text.split()) >= 4 for query in found.queries)
    assert all(2 in grades.values() for grades in found.qrels.values())
    assert source.state().startswith("numpy.linalg==")


def test_no_near_duplicate_of_a_held_out_answer_is_an_answer_in_training(tmp_path):
    store = prepare(DataConfig(source="pydocs", params={"packages": list(PACKAGES)}), tmp_path / "data")
    texts = {docid: document.text for docid, document in PyDocs(PACKAGES).read().documents.items()}
    cluster = near_duplicates.clusters(texts)
    sought = {
        split: {cluster[docid] for grades in store.qrels(split).values() for docid, g in grades.items() if g == 2}
        for split in store.splits
    }
    assert list(sought) == ["train", "dev", "test"]
    assert not sought["train"] & sought["test"]
    assert not sought["train"] & sought["dev"]
    assert not sought["dev"] & sought["test"]
    # The guarantee is not empty: some answers do have near duplicates.
    assert len(set(cluster.values())) < len(cluster)


def test_packages_that_give_no_query_do_not_exist_or_are_no_list_are_refused(tmp_path, monkeypatch):
    (tmp_path / "without_docs.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ValueError, match=r"data.params.packages=\['without_docs'\] has no docstring that makes a query"
    ):
        PyDocs(("without_docs",)).read()
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        PyDocs(("no_such_package",)).read()
    with pytest.raises(ValueError, match=r"data.params.packages must be a list"):
        PyDocs("numpy")  # pyright: ignore[reportArgumentType]
