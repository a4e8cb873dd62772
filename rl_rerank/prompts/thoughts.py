"""Where a chat template lets its model think: before the answer, within a prompt that ends inside a thought, or not.

A template may open a thought at the end of a prompt (Qwen3-Thinking, DeepSeek-R1), close an empty one (Qwen3 with
`enable_thinking=false`) or leave the choice to the model (Qwen3 otherwise, which then opens one). An answer that is
scored, or learned, at the end of such a prompt would stand inside the thought.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

_NAME = r"(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|analysis|scratchpad)"
_CLOSES = rf"\s?/\s?(?:seed:)?{_NAME}\s?>|\s?{_NAME}\s?/>|\|(?:/|end_(?:of_)?){_NAME}\|>|\|channel\|>final<\|message\|>"
_OPENS = (
    rf"\s?(?:seed:)?{_NAME}(?:\s[^<>]{{0,80}})?>|\|(?:(?:begin|start)_(?:of_)?)?{_NAME}\|>"
    r"|\|channel\|>(?:analysis|commentary)<\|message\|>"
)
# Each begins with a plain character, which regular expressions seek fast.
_TAGS = (
    re.compile(f"<(?i:(?P<closing>{_CLOSES})|{_OPENS})"),
    re.compile(r"\[(?i:(?P<closing>/think(?:ing)?\])|think(?:ing)?\])"),
    re.compile("◁(?:(?P<closing>/think▷)|think▷)"),
)
READ = "<think>"
"""The tag that parsers of answers with reasoning know."""
SWITCHES = ("enable_thinking", "thinking", "reasoning")
"""Template variables that turn thinking on and off."""
QUESTION = "usermark"
"""The question of the prompt that templates are tried on."""

Try = Callable[[Mapping[str, Any]], str]
"""Takes arguments of the chat template and gives the text of a prompt whose question is `QUESTION`."""


def tags(text: str) -> list[re.Match[str]]:
    """The tags around thoughts in a text, in order; those that close one have the group `closing`.

    `<think>` of most models, `<thought>` of EXAONE Deep, `[THINK]` of Magistral, `<seed:think>` of Seed-OSS,
    `◁think▷` of Kimi, `<|START_THINKING|>` of Command A, the channels of gpt-oss, and tags that models choose
    themselves. `<think/>` closes a thought, empty or not.
    """
    return sorted((tag for kind in _TAGS for tag in kind.finditer(text)), key=re.Match.start)


def switched(template: Try, given: Mapping[str, Any], reasoning: bool) -> dict[str, Any]:
    """The template's arguments, with its switch set as the paradigm needs it, unless it is given.

    Thinking is turned off without reasoning. With reasoning it is turned on only where the prompt's end would close it:
    other models think as they are asked to.
    """
    found = dict(given)
    if reasoning and not _is_closed(template(given)):
        return found
    for name in SWITCHES:
        if name not in given and template({**given, name: reasoning}) != template(given):
            found[name] = reasoning
    return found


def refusal(template: Try, arguments: Mapping[str, Any], paradigm: str, reasoning: bool) -> str | None:
    """Why the paradigm's answers would not stand where they are read, and the settings that help; None if they do."""
    text = template(arguments)
    end, tag = _end(text), _last_tag(text)
    on = next((n for n in SWITCHES if arguments.get(n) and template({**arguments, n: False}) != text), None)
    if not reasoning and on is not None:
        return (
            f"lets the model think, and {paradigm} answers have no reasoning; set model.template_kwargs.{on}=false, or "
            f"paradigms.{paradigm}.params.reasoning=true where the paradigm has it"
        )
    if not reasoning and tag is not None and not tag["closing"]:
        return (
            f"ends prompts with {end!r}, so that {paradigm} answers, which have no reasoning, would stand inside a "
            f"thought; set paradigms.{paradigm}.params.reasoning=true where the paradigm has it, or choose a model "
            "that does not always think"
        )
    if reasoning and _is_closed(text):
        off = [n for n in SWITCHES if n in arguments]
        help_ = f"leave out model.template_kwargs.{off[0]}" if off else "choose a model that thinks"
        return (
            f"ends prompts with {end!r}, behind which nothing is thought, and {paradigm} answers begin with reasoning; "
            f"{help_}, or set paradigms.{paradigm}.params.reasoning=false"
        )
    if reasoning and tag is not None and tag[0] != READ:
        return (
            f"opens thoughts with {tag[0]}, and {paradigm} answers are read behind </think>; set "
            f"paradigms.{paradigm}.params.reasoning=false, or choose a model that thinks in {READ}"
        )
    return None


def is_opened(text: str) -> bool:
    """Whether a prompt that a template has rendered ends inside a thought."""
    return text.rstrip().endswith(READ)


def _end(text: str) -> str:
    return text.rpartition(QUESTION)[2]


def _last_tag(text: str) -> re.Match[str] | None:
    """The last tag that the template writes behind the question."""
    found = tags(_end(text))
    return found[-1] if found else None


def _is_closed(text: str) -> bool:
    tag = _last_tag(text)
    return tag is not None and bool(tag["closing"])
