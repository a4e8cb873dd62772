"""Chat templates that take a query and a document, as sentence-transformers' CrossEncoder asks for a pair's score.

What is written here stands in front of the model's own template. It turns messages of the roles `query` and `document`,
and `system` for an instruction, into the paradigm's messages; other conversations pass through. As far as Jinja can, it
sanitises the texts as `prompts.sanitize` does. It also fixes the date of a template that reads the clock, for programs
that render without us.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from rl_rerank.config import LongDocumentsConfig
from rl_rerank.paradigms.base import Paradigm, traits
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.types import Candidate, Prompt, RankingExample, Segment

ROLES = ("query", "document", "system")
"""Of the messages that are read. sentence-transformers gives its `prompt` as the system message."""
WITHOUT_TEMPLATE = (
    "{{- BEGIN -}}{%- for message in messages -%}{%- if not loop.first -%}{{- '\\n\\n' -}}{%- endif -%}"
    "{{- message.content -}}{%- endfor -%}{{- '\\n\\nAnswer:\\n' -}}"
)
"""What `Renderer` writes for a tokenizer without a chat template."""

READ = """\
{%- set pair = namespace(query=none, document=none, system='') -%}
{%- for message in messages -%}
{%- if message.role == 'query' -%}{%- set pair.query = message.content -%}{%- endif -%}
{%- if message.role == 'document' -%}{%- set pair.document = message.content -%}{%- endif -%}
{%- if message.role == 'system' -%}{%- set pair.system = message.content -%}{%- endif -%}
{%- endfor -%}
"""
CLEAN = """\
{%- macro clean_text(text) -%}
{%- set own = namespace(text=text.split() | join(' ')) -%}
{%- if not own.text.isprintable() -%}
{%- for character in INVISIBLE -%}{%- set own.text = own.text.replace(character, '') -%}{%- endfor -%}
{%- for character in CONTROL -%}{%- set own.text = own.text.replace(character, ' ') -%}{%- endfor -%}
{%- set own.text = own.text.split() | join(' ') -%}
{%- endif -%}
{%- set parts = own.text.split('[') -%}
{%- set own.text = parts[0] -%}
{%- for part in parts[1:] -%}
{%- set inner = part.split(']')[0] -%}
{%- set bare = inner.strip() -%}
{%- if ']' in part and (bare.isdecimal() or (bare | length == 1 and bare.isascii() and bare.isalpha())) -%}
{%- set own.text = own.text ~ '(' ~ inner ~ ')' ~ part[inner | length + 1:] -%}
{%- else -%}{%- set own.text = own.text ~ '[' ~ part -%}{%- endif -%}
{%- endfor -%}
{%- set parts = own.text.split('<') -%}
{%- set own.text = parts[0] -%}
{%- for part in parts[1:] -%}
{%- set tag = part.lstrip().removeprefix('/').lstrip().lower() -%}
{%- set rest = tag.removeprefix('think') if tag.startswith('think') else tag.removeprefix('answer') -%}
{%- set is_cut = rest != tag and not (rest[:1].isalnum() or rest[:1] == '_') -%}
{%- set words = tag.split('>')[0].removesuffix('/').removeprefix('seed:').split() -%}
{%- set is_thought = '>' in part and words | length > 0 and words[0] in THOUGHTS -%}
{%- set own.text = own.text ~ ('(' if is_cut or is_thought else '<') ~ part -%}
{%- endfor -%}
{%- for _ in range(3) -%}
{%- for token in TOKENS if token in own.text -%}
{%- set own.text = own.text.replace(token, token[0] ~ ' ' ~ token[1:]) -%}
{%- endfor -%}
{%- endfor -%}
{{- own.text -}}
{%- endmacro -%}
"""
THOUGHTS = ("think", "thinking", "thought", "thoughts", "reason", "reasoning", "reflection", "analysis", "scratchpad")


def with_pairs(renderer: Renderer, paradigm: Paradigm, how: LongDocumentsConfig) -> str:
    """Write the template of a paradigm that scores each document by a prompt of its own."""
    arguments = renderer.arguments(paradigm.name, traits(paradigm).reasoning)
    plain, instructed = (_messages(_prompt(paradigm, said), renderer.takes_system) for said in ("", "i"))
    lines = [
        f"{{%- set messages = {instructed} if pair.is_instructed else {plain} -%}}",
        "{%- set add_generation_prompt = true -%}",
        *(f"{{%- set {name} = {literal(value)} -%}}" for name, value in arguments.items()),
    ]
    asked = _documents(how) + "".join(f"{{%- set pair.{role} = clean_text(pair.{role}) -%}}\n" for role in ROLES)
    return (
        pinned(renderer, paradigm)
        + _clean(renderer)
        + READ
        + "{%- if pair.query is not none and pair.document is not none -%}\n"
        + "{%- set pair.is_instructed = pair.system != '' -%}\n"
        + asked
        + "\n".join(lines)
        + "\n{%- endif -%}\n"
        + _own(renderer)
    )


def without_pairs(renderer: Renderer, paradigm: Paradigm, reason: str) -> str:
    """Write the template of any other paradigm: it refuses a pair with the reason."""
    refused = (
        f"{{%- if pair.query is not none or pair.document is not none -%}}{{{{ raise_exception({literal(reason)}) }}}}"
    )
    return pinned(renderer, paradigm) + READ + refused + "{%- endif -%}\n" + _own(renderer)


def without_begin(template: str) -> str:
    """Leave out the begin token that a template writes, for programs whose tokenizer adds it."""
    return "{%- set bos_token = '' -%}\n" + template


def pinned(renderer: Renderer, paradigm: Paradigm) -> str:
    """Fix the date of a template that reads the clock, in the formats in which it asks for it."""
    dates = renderer.dates(paradigm.name, traits(paradigm).reasoning)
    if not dates:
        return ""
    return f"{{%- macro strftime_now(format) -%}}{{{{- {literal(dates)}[format] -}}}}{{%- endmacro -%}}\n"


def literal(value: Any) -> str:
    """Write a plain value as Jinja does.

    Raises:
        ValueError: for a value of another kind.
    """
    if isinstance(value, str):
        # Jinja reads the escapes of its strings by the same codec.
        return "'" + value.encode("unicode_escape").decode("ascii").replace("'", "\\'") + "'"
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{literal(str(k))}: {literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(map(literal, value)) + "]"
    raise ValueError(f"an argument of the chat template must be a plain value; got {value!r}")


def _prompt(paradigm: Paradigm, instruction: str) -> Prompt:
    example = RankingExample("pair", "q", (Candidate("0", "d"),), instruction=instruction)
    return paradigm.prompt(example, ["0"])


def _messages(prompt: Prompt, takes_system: bool) -> str:
    """Write a prompt's messages as a list of Jinja, with the pair's texts where those of the prompt are foreign."""
    found = [(m.role, " ~ ".join(map(_expression, m.segments)) or "''") for m in prompt.messages]
    if found[0][0] == "system" and not takes_system:  # As the renderer shows it to such a template.
        (_, first), (role, second), *rest = found
        found = [(role, f"{first} ~ '\\n\\n' ~ {second}"), *rest]
    return "[" + ", ".join(f"{{'role': '{role}', 'content': {content}}}" for role, content in found) + "]"


def _expression(segment: Segment) -> str:
    if segment.is_ours:
        return literal(segment.text)
    return "pair.document" if segment.docid is not None else "pair.query" if segment.field == "query" else "pair.system"


def _documents(how: LongDocumentsConfig) -> str:
    """Cut a long document as `ranking.long_documents` does, or refuse one that Jinja cannot treat as it would be."""
    if how.mode == "firstp":
        return f"{{%- set pair.document = pair.document.split()[:{how.words}] | join(' ') -%}}\n"
    if how.splits:
        reason = f"a document of more than {how.words} words is split into passages, which Reranker of rl-rerank does"
        return (
            f"{{%- if pair.document.split() | length > {how.words} -%}}{{{{ raise_exception({literal(reason)}) }}}}"
            "{%- endif -%}\n"
        )
    return ""


def _clean(renderer: Renderer) -> str:
    """Write the sanitising macro, for the control tokens of the renderer's tokenizer."""
    tokens = sorted(set(renderer.sanitize.controls.values()), key=lambda token: (-len(token), token))
    values = {
        "INVISIBLE": literal(_characters("Cf")),
        "CONTROL": literal(_characters("Cc")),
        "THOUGHTS": literal(THOUGHTS),
        "TOKENS": literal(tokens),
    }
    text = CLEAN
    for name, value in values.items():
        text = text.replace(name, value)
    return text


def _characters(category: str) -> str:
    return "".join(c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c) == category)


def _own(renderer: Renderer) -> str:
    """The model's own template; for a tokenizer without one, a template that writes what the renderer does."""
    if renderer.has_no_template:
        return WITHOUT_TEMPLATE.replace("BEGIN", literal(renderer.begin))
    template = renderer.tokenizer.chat_template
    return template["default"] if isinstance(template, Mapping) else template
