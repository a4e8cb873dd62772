"""40 texts that would run a script if a page took them for markup, in every place that foreign text can reach.

Each page is compared with the same page about harmless texts: both have the same elements with the same attributes, as
HTML's own algorithm reads them. Where a browser is installed, it opens them without their policy and runs nothing.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import html5lib
import pytest
from markdown_it import MarkdownIt
from support import browser, finished_run
from support.payloads import PAYLOADS, framed, harmless

from rl_rerank.config import Config, DataConfig, ModelConfig
from rl_rerank.evaluation.records import Metrics, RunRow
from rl_rerank.evaluation.table import table
from rl_rerank.serving import card
from rl_rerank.serving.contract import CrossEncoderDoor
from rl_rerank.serving.server.app import PAGE
from rl_rerank.stages.export.spec import ExportStage
from rl_rerank.stages.sft.spec import SFTStage
from rl_rerank.stages.synth.spec import SynthStage
from rl_rerank.synthesis import card as data_card

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
needs_browser = pytest.mark.skipif(browser.found() is None, reason="no Chromium is installed")


def structure(page: str) -> list[tuple[str, tuple[str, ...]]]:
    """The elements of a page in order, each with the names of its attributes."""
    tree = html5lib.parse(page, treebuilder="etree", namespaceHTMLElements=False)
    return [(str(element.tag), tuple(sorted(element.attrib))) for element in tree.iter()]


def rendered(text: str) -> str:
    """A card as a page, by a renderer that lets HTML and every link through."""
    body = text.partition("\n---\n")[2] if text.startswith("---\n") else text
    renderer = MarkdownIt("commonmark", {"html": True}).enable("table")
    renderer.validateLink = lambda url: True
    return renderer.render(body)


def report(folder: Path, texts: Sequence[str]) -> str:
    config = finished_run.report(finished_run.experiment(folder, len(texts) + 1, texts))
    return (Path(config.run_dir) / "report/index.html").read_text()


def measures_table(text: str) -> str:
    rows = [RunRow(run="trained", label=text, mean={"nDCG@10": 0.5}, num_queries=30)]
    return table(Metrics(measures=["nDCG@10"], rows=rows))


def model_card(text: str) -> str:
    config = Config(
        experiment=text,
        paradigm=text,
        model=ModelConfig(path=f"/models/{text.replace('/', ' ')}"),
        data=DataConfig(source="jsonl", path=f"/data/{text.replace('/', ' ')}"),
        stages={"sft": SFTStage(kind="sft")},
    )
    refused = CrossEncoderDoor(refusal=text)
    limited = CrossEncoderDoor(limits=[text])
    made = [card.model(config, ExportStage(kind="export", model="sft"), "export", door) for door in (refused, limited)]
    return "\n".join(one.partition("\n---\n")[2] for one in made)


def data_cards(text: str) -> tuple[str, str]:
    """The data card in Markdown and as a page."""
    config = Config(
        experiment=text,
        data=DataConfig(source="jsonl", path=f"/data/{text.replace('/', ' ')}"),
        stages={"synth": SynthStage(kind="synth", licence=text)},
    )
    counted = {f"{what}_words": [1] * data_card.DOUBLINGS for what in ("query", "document", "answer")}
    agreement = {"examples": 1, "ndcg": 0.5, "tau": 0.1, "histogram": [1] * data_card.TENTHS}
    summary: dict[str, Any] = {
        "examples": 1,
        "finished": "2026-01-01T00:00:00",
        "data": "d" * 64,
        "seed": 1,
        "stopped": text,
        "steps": {},
        "paradigms": {text: {"asked": 1, "rows": 1}},
        "statistics": {"agreement": agreement, "grades": {}, "candidates": {}, **counted},
        "failures": {text: 1},
        "files": {"rows.jsonl": "f" * 64},
        "warnings": [text],
    }
    return data_card.markdown(config, "synth", summary), data_card.html(config, "synth", summary)


def study_page(text: str) -> str:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        module = importlib.import_module("study_page")
    finally:
        sys.path.remove(str(BENCHMARKS))
    run = next(run for run in module.RUNS if run.losses)
    systems = [system.key for system in module.SYSTEMS if run.name in system.runs]
    values = {system: {f"wikiqa:{text}": dict.fromkeys(("nDCG@10", "AP", "RR"), 0.5)} for system in systems}
    known = {run.name: module.Measured(text, 1.0, text, {"train": 1.0}, values)}
    hours = {run.name: 0.0 for run in module.RUNS}
    return "\n".join(module.page(known, hours))


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The report about the payloads, and the one about harmless texts of the same lengths."""
    folders = (tmp_path_factory.mktemp("hostile"), tmp_path_factory.mktemp("harmless"))
    return report(folders[0], PAYLOADS), report(folders[1], [harmless(text) for text in PAYLOADS])


def test_there_are_forty():
    assert len(PAYLOADS) == len(set(PAYLOADS)) == 40


def test_the_comparison_finds_what_is_not_escaped():
    places = (rendered, "<p>{}</p>".format, '<p title="{}"></p>'.format)
    for text in PAYLOADS:
        assert any(structure(place(text)) != structure(place(harmless(text))) for place in places), text


def test_the_report_takes_no_payload_for_markup(reports: tuple[str, str]):
    hostile, plain = reports
    assert structure(hostile) == structure(plain)
    shown = "".join(html5lib.parse(hostile, treebuilder="etree").itertext())
    for text in PAYLOADS:
        assert shown.count(" ".join(text.split())) + shown.count(text) >= 2, text


@pytest.mark.parametrize("text", PAYLOADS)
def test_cards_and_tables_take_no_payload_for_markup(text: str):
    for made in (measures_table, model_card, study_page):
        assert structure(rendered(made(text))) == structure(rendered(made(harmless(text)))), made
    for hostile, plain in zip(data_cards(text), data_cards(harmless(text)), strict=True):
        as_page = [rendered(one) if one.startswith("---") else one for one in (hostile, plain)]
        assert structure(as_page[0]) == structure(as_page[1])


@needs_browser
def test_the_browser_would_run_most_payloads_where_they_are_markup(tmp_path: Path):
    ran = [browser.language_of(framed([text]), tmp_path) for text in PAYLOADS[14:18]]
    assert ran == ["15", "16", "17", "18"]


@needs_browser
def test_a_browser_runs_no_payload_of_a_report_a_card_or_a_table(reports: tuple[str, str], tmp_path: Path):
    page = re.sub(r"<meta http-equiv=.Content-Security-Policy.[^>]*>", "", reports[0])
    assert page != reports[0]
    pages = [page]
    for text in PAYLOADS:
        markdown, html = data_cards(text)
        pages += [rendered(made(text)) for made in (measures_table, model_card, study_page)]
        pages += [rendered(markdown), re.sub(r"<meta http-equiv[^>]*>", "", html)]
    assert browser.language_of(framed(pages), tmp_path) == "en"


ASKED = """\
const texts = TEXTS;
window.fetch = async (path) => ({
  ok: true,
  json: async () => path === "/healthz" ? { model: texts.join(" "), reasons: true } : {
    results: texts.map((_, index) => ({ index, relevance_score: 0.5 })),
    reasoning: texts.map((text) => ({ text, documents: [0, 2] })),
    meta: { score_scale: "points", warnings: texts },
  },
});
"""
SUBMIT = """\
document.getElementById("query").value = texts.join(" ");
document.getElementById("passages").value = texts.map((text) => text.replace(/\\n\\s*\\n/g, " ")).join("\\n\\n");
document.getElementById("form").dispatchEvent(new Event("submit", { cancelable: true }));
"""


@needs_browser
def test_a_browser_runs_no_payload_of_the_servers_page(tmp_path: Path):
    texts = json.dumps(PAYLOADS).replace("</", "<\\/").replace("<!--", "<\\!--").replace("<script", "<\\u0073cript")
    page = (PAGE / "index.html").read_text().replace('<link rel="stylesheet" href="/page.css">', "")
    script = f"{ASKED.replace('TEXTS', texts)}\n{(PAGE / 'page.js').read_text()}\n{SUBMIT}"
    shown = "document.querySelectorAll('#results li').length === 40 && document.documentElement.lang === 'en'"
    end = f"setTimeout(() => {{ if ({shown}) document.documentElement.lang = 'shown'; }}, 500);"
    page = page.replace('<script src="/page.js" defer></script>', "")
    page = page.replace("</body>", f"<script>{script}\n{end}</script></body>")
    assert browser.language_of(page, tmp_path) == "shown"
