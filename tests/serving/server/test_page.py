"""The page at `/`: what it may load and run, and that foreign text cannot become a part of it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra serve has it")
from support.served import by_length, client

from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.serving.server.app import PAGE

SCRIPT = (PAGE / "page.js").read_text()


@pytest.fixture(scope="module")
def http():
    with client(by_length(Pointwise())) as found:
        yield found


class Elements(HTMLParser):
    """The start tags of a page, with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_the_page_and_its_files_are_served_with_a_policy(http):
    for path, kind in (("/", "text/html"), ("/page.js", "javascript"), ("/page.css", "text/css")):
        response = http.get(path)
        assert response.status_code == 200
        assert kind in response.headers["content-type"]
        policy = dict(part.strip().split(" ", 1) for part in response.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
        assert response.headers["x-content-type-options"] == "nosniff"


def test_nothing_on_the_page_is_inline_or_from_elsewhere(http):
    page = http.get("/").text
    elements = Elements(page).found
    assert not re.search(r"https?://", page)
    assert [attributes["src"] for tag, attributes in elements if tag == "script"] == ["/page.js"]
    assert not [tag for tag, attributes in elements if tag == "style" or "style" in attributes]
    assert not [name for _, attributes in elements for name in attributes if name.startswith("on")]
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in elements


def test_the_script_writes_text_only():
    writers = "innerHTML|outerHTML|insertAdjacentHTML|document\\.write|setAttribute|\\.src\\b|\\.href\\b"
    assert not re.search(rf"{writers}|\beval\b|\bFunction\b", SCRIPT)
    assert "textContent" in SCRIPT


def test_every_element_that_the_script_asks_for_is_on_the_page(http):
    there = {attributes.get("id") for _, attributes in Elements(http.get("/").text).found}
    asked = set(re.findall(r'element\("(\w+)"\)', SCRIPT))
    assert asked and asked <= there


def test_every_input_has_a_label(http):
    elements = Elements(http.get("/").text).found
    labels = {attributes.get("for") for tag, attributes in elements if tag == "label"}
    inputs = {a["id"] for tag, a in elements if tag in ("input", "textarea") and a.get("type") != "checkbox"}
    assert inputs <= labels


def test_the_script_knows_every_scale_of_scores():
    known = set(re.findall(r"^  (\w+): \"", SCRIPT.partition("SCALES")[2].partition("};")[0], re.MULTILINE))
    assert known == {"log_odds", "points", "relative", "order"}


def test_the_files_of_the_page_are_in_the_package():
    assert {path.name for path in Path(PAGE).iterdir()} == {"index.html", "page.css", "page.js"}
