"""Images for served models: data URLs of what our own processors would show, within the budget."""

from __future__ import annotations

import base64
import io
import json

import pytest
from PIL import Image
from support.openai_stand_in import message, serving
from support.pages import example, page

from rl_rerank.config import ModelConfig
from rl_rerank.engines.base import Capability
from rl_rerank.engines.journal import Journal
from rl_rerank.engines.journaled import Journaled
from rl_rerank.engines.served.kinds import OpenAI
from rl_rerank.engines.served.openai import OpenAIEngine
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.types import Candidate, RankingExample, Sampling

SHOWN = Listwise(shown="both")


@pytest.fixture
def server():
    with serving() as stand_in:
        stand_in.reply = lambda body, _: message("[2] > [1]")
        yield stand_in


def engine(server, budget: int = 2048, **settings) -> OpenAIEngine:
    return OpenAIEngine(OpenAI(model="m", base_url=server.url), ModelConfig(max_prompt_tokens=budget, **settings))


def images(body) -> list[Image.Image]:
    urls = [part["image_url"]["url"] for part in body["messages"][1]["content"] if part["type"] == "image_url"]
    assert all(url.startswith("data:image/png;base64,") for url in urls)
    return [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]


def test_images_go_out_as_data_urls_in_their_places(server, tmp_path):
    asked = example(tmp_path, documents=2, text="a caption")
    made = engine(server)
    assert made.capabilities == {Capability.images}
    [[answer]] = made.generate([SHOWN.prompt(asked, asked.docids)], Sampling(20))
    assert answer.text == "[2] > [1]"
    [body] = server.bodies
    system, user = body["messages"]
    assert isinstance(system["content"], str)
    assert [part["type"] for part in user["content"]] == ["text", "image_url", "text", "image_url", "text"]
    assert user["content"][0]["text"].endswith("\n[1] ")
    assert user["content"][2]["text"] == "\na caption\n[2] "
    for sent, candidate in zip(images(body), asked.candidates, strict=True):
        assert sent.tobytes() == Image.open(candidate.images[0]).tobytes()


def test_the_journal_holds_digests_and_no_paths(server, tmp_path):
    asked = example(tmp_path / "pages", documents=2)
    prompt = Listwise(shown="images").prompt(asked, asked.docids)
    journaled = Journaled(engine(server), Journal(tmp_path / "journal.sqlite"), {"kind": "openai"})
    rendered = json.dumps(journaled.render(prompt))
    assert "pages" not in rendered and "base64" not in rendered and rendered.count("sha256") == 2
    moved = example(tmp_path / "elsewhere", documents=2)
    for same in (asked, moved):
        journaled.generate([Listwise(shown="images").prompt(same, same.docids)], Sampling(20))
    assert len(server.bodies) == 1
    page(tmp_path / "pages/0-0.png", "purple")
    journaled.generate([prompt], Sampling(20))
    assert len(server.bodies) == 2


def test_images_are_made_smaller_to_the_budget_and_the_cost_counts_them(server, tmp_path):
    candidates = [Candidate(d, "x" * 9000, images=(page(tmp_path / f"{d}.png", "red", (560, 560)),)) for d in "ab"]
    asked = RankingExample("q", "red?", tuple(candidates))
    prompt = SHOWN.prompt(asked, asked.docids)
    made = engine(server, 500)
    made.generate([prompt], Sampling(5))
    sizes = [image.size for image in images(server.bodies[-1])]
    tokens = [-(-width // 28) * -(-height // 28) for width, height in sizes]
    assert sizes[0] == sizes[1] and 100 < tokens[0] < 400
    texts = sum(len(part["text"]) for part in server.bodies[-1]["messages"][1]["content"] if part["type"] == "text")
    assert sum(tokens) + texts / 3 <= 500
    assert made.chat.most_tokens(made.render(prompt)) >= 4 * sum(tokens) + texts
    capped = engine(server, 5000, max_image_tokens=50)
    capped.generate([prompt], Sampling(5))
    assert all(-(-w // 28) * -(-h // 28) <= 50 for w, h in (image.size for image in images(server.bodies[-1])))


def test_a_placeholder_in_a_document_is_broken_up(server, tmp_path):
    asked = RankingExample("q", "red?", (Candidate("a", "<image> </image>"), Candidate("b", "y")))
    engine(server).generate([Listwise().prompt(asked, asked.docids)], Sampling(5))
    assert "[1] < image> < /image>" in server.bodies[0]["messages"][1]["content"]


def test_a_served_tokenizer_shows_no_images():
    assert "images" not in OpenAI(model="m", tokenizer="some/folder").capabilities
