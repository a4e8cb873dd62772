"""Chat templates that write the date are given a fixed one, and those that draw at random are refused."""

import datetime as dt

import pytest
import transformers.utils.chat_template_utils as templates
from support import small_tokenizers as small

from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.prompts import clock
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.types import Candidate, RankingExample

EXAMPLE = RankingExample("q", "what melts ice", (Candidate("0", "Salt melts ice."),))


def years_later(monkeypatch):
    class Later(dt.datetime):
        @classmethod
        def now(cls, tz=None):
            return super().now(tz) + dt.timedelta(days=400)

    monkeypatch.setattr(templates, "datetime", Later)


def test_a_prompt_is_the_same_on_every_day(monkeypatch):
    tokenizer, prompt = small.llama32(), Pointwise().prompt(EXAMPLE, ["0"])
    messages = [{"role": "user", "content": "q"}]
    today = Renderer(tokenizer, max_prompt_tokens=512)(prompt)
    as_shipped = tokenizer.apply_chat_template(messages, tokenize=False)
    years_later(monkeypatch)
    assert Renderer(tokenizer, max_prompt_tokens=512)(prompt) == today
    assert "Today Date: 26 Jul 2024" in today.text
    assert tokenizer.apply_chat_template(messages, tokenize=False) != as_shipped  # the clock did move


def test_a_date_that_is_given_is_kept():
    renderer = Renderer(small.llama32(), max_prompt_tokens=512, template_kwargs={"date_string": "1 Jan 2026"})
    assert "Today Date: 1 Jan 2026" in renderer(Pointwise().prompt(EXAMPLE, ["0"])).text
    assert renderer.dates("pointwise", False) == {}


def test_formats_in_which_the_date_is_asked_for_are_found():
    assert Renderer(small.llama32(), max_prompt_tokens=9).dates("pointwise", False) == {"%d %b %Y": "26 Jul 2024"}
    assert Renderer(small.chatml(), max_prompt_tokens=9).dates("pointwise", False) == {}


def test_two_clocks_tell_who_reads_them():
    tokenizer = small.llama32()
    messages = [{"role": "user", "content": "q"}]
    assert clock.reads(lambda now: tokenizer.apply_chat_template(messages, tokenize=False, **now))
    fixed = {"date_string": "1 Jan 2026"}
    assert not clock.reads(lambda now: tokenizer.apply_chat_template(messages, tokenize=False, **fixed, **now))


def test_a_template_that_draws_at_random_is_refused():
    # Eight renderings of a thousand possible ones.
    template = "{{ range(1000) | random }}" + small.CHATML
    tokenizer = small.build(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], template, "<|im_end|>", "<|endoftext|>")
    with pytest.raises(ValueError, match="renders one prompt in two ways"):
        Renderer(tokenizer, max_prompt_tokens=512)(Pointwise().prompt(EXAMPLE, ["0"]))
