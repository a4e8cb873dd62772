"""Pages of handwritten numbers: splits of their own digits, hard candidates, made once."""

import pytest
from PIL import Image

from rl_rerank.config import DataConfig
from rl_rerank.data.prepare import prepare
from rl_rerank.data.sources import digits
from rl_rerank.data.sources.digits import PARTS, Digits


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RL_RERANK_CACHE", str(tmp_path / "cache"))


SMALL = {"train": 5, "dev": 2, "test": 4, "candidates": 6}


def test_one_page_shows_the_number_and_the_others_differ_in_one_digit():
    found = Digits(**SMALL, text=True).read()
    assert [query.split for query in found.queries] == ["train"] * 5 + ["dev"] * 2 + ["test"] * 4
    firsts = []
    for query in found.queries:
        pages = {docid: found.documents[docid].text for docid in found.qrels[query.qid]}
        assert [pages[docid] for docid, grade in found.qrels[query.qid].items() if grade] == [query.text]
        differ = [sum(a != b for a, b in zip(text, query.text, strict=True)) for text in pages.values()]
        assert sorted(differ) == [0, 1, 1, 1, 1, 1] and len(set(pages.values())) == 6
        assert sorted(docid for docid, _ in found.runs[query.qid]) == sorted(pages)
        firsts.append(found.qrels[query.qid][found.runs[query.qid][0][0]])
    assert 0 < sum(firsts) < len(firsts)  # the first stage knows nothing


def test_pages_are_made_once_and_without_a_text_unless_it_is_asked_for():
    one = Digits(**SMALL).read()
    path = one.documents["test0-0"].images[0]
    with open(path, "rb") as file:
        before = file.read()
    assert Image.open(path).size == (48, 48)
    assert {document.text for document in one.documents.values()} == {""}
    with open(path, "ab") as file:
        file.write(b"mark")
    with open(Digits(**SMALL).read().documents["test0-0"].images[0], "rb") as file:
        assert file.read() == before + b"mark"
    assert Digits(**{**SMALL, "seed": 1}).read().documents["test0-0"].images[0] != path


def test_a_split_has_digits_of_its_own():
    drawn = {split: digits._digits(*part) for split, part in PARTS.items()}
    sizes = {split: sum(map(len, of.values())) for split, of in drawn.items()}
    assert sum(sizes.values()) == 1797 and sizes["test"] == 359
    assert all(sorted(of) == list("0123456789") for of in drawn.values())


def test_a_store_keeps_the_images(tmp_path):
    store = prepare(DataConfig(source="digits", params=SMALL), tmp_path / "store")
    assert store.has_images and store.size("test") == 4
    [candidate, *_] = store.examples("test")[0].candidates
    assert candidate.images[0].endswith(".png")


@pytest.mark.parametrize(
    ("params", "says"),
    [({"candidates": 29}, "candidates must be from 2 to 28"), ({"test": 0}, "data.params.test must be at least 1")],
)
def test_impossible_settings_are_refused(params, says):
    with pytest.raises(ValueError, match=says):
        Digits(**params)
