"""Five ways to use an exported model, for its card. Free of torch."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence

from rl_rerank.io.markdown import plain
from rl_rerank.serving.contract import CrossEncoderDoor
from rl_rerank.serving.vllm_pairs import score_arguments

HERE = "path/to/this/folder"
LOCAL = "FOLDER"
"""A downloaded copy, for programs that take no file of a repository."""


def uses(path: str, revision: str | None, dtype: str, door: CrossEncoderDoor, answers: Sequence[str]) -> str:
    """Write the ways.

    Args:
        path: hub id or folder.
        answers: the two tokens whose logits make the score, the positive one first; empty where there are none.
    """
    at = f", revision={json.dumps(revision)}" if revision else ""
    loaded = json.dumps(path) + at
    name = path.rpartition("/")[2]
    ways = [
        ("Python", "python", _python(loaded)),
        ("sentence-transformers", "python", "" if door.refusal else _cross_encoder(loaded)),
        ("A server, with the protocols of Cohere, Jina, vLLM and TEI", "sh", _server(path, revision, name)),
        ("vLLM", *(("sh", _vllm_score(dtype, answers)) if answers else ("python", _vllm(loaded)))),
        ("MTEB, on tasks that bring candidates", "python", _mteb(loaded)),
    ]
    shown = [
        f"{number}. {title}:\n\n```{language}\n{code}\n```" if code else f"{number}. {title}: {plain(door.refusal)}."
        for number, (title, language, code) in enumerate(ways, 1)
    ]
    return "\n\n".join(shown) + "\n" + _limits(door)


def _python(loaded: str) -> str:
    return f"""\
from rl_rerank.serving import Reranker  # pip install 'rl-rerank[train]'

reranker = Reranker.load({loaded})
reranker.rank("a query", ["one document", "another document"])  # [(index, score), ...], best first"""


def _cross_encoder(loaded: str) -> str:
    return f"""\
from sentence_transformers import CrossEncoder  # 6.2 or later; an instruction is its `prompt`

CrossEncoder({loaded}).rank("a query", ["one document", "another document"])"""


def _server(path: str, revision: str | None, name: str) -> str:
    at = f" revision={shlex.quote(revision)}" if revision else ""
    return f"""\
pip install 'rl-rerank[train,serve]'
rl-rerank serve model={shlex.quote(path)}{at} name={shlex.quote(name)}
curl localhost:8000/v1/rerank -H 'Content-Type: application/json' \\
    -d '{{"query": "a query", "documents": ["one document", "another document"]}}'"""


def _vllm_score(dtype: str, answers: Sequence[str]) -> str:
    started = shlex.join(["vllm", "serve", LOCAL, "--dtype", dtype, *score_arguments(LOCAL, answers)])
    return f"""\
{started}
curl localhost:8000/score -H 'Content-Type: application/json' \\
    -d '{{"text_1": "a query", "text_2": ["one document", "another document"], "use_activation": false}}'"""


def _vllm(loaded: str) -> str:
    return f"""\
from rl_rerank.serving import Reranker  # pip install 'rl-rerank[train,vllm]'

Reranker.load({loaded}, engine="vllm").rank("a query", ["one document", "another document"])"""


def _mteb(loaded: str) -> str:
    return f"""\
import mteb  # pip install 'rl-rerank[train,mteb]'
from rl_rerank.serving.mteb import MTEBReranker

mteb.evaluate(MTEBReranker.load({loaded}), mteb.get_tasks(tasks=["AskUbuntuDupQuestions"]))"""


def _limits(door: CrossEncoderDoor) -> str:
    if door.refusal:
        return ""
    limits = "".join(f"- {plain(limit)};\n" for limit in door.limits)
    return (
        "\nThese give the same scores. Programs other than rl-rerank score some inputs otherwise, or not at all:\n\n"
        + limits.removesuffix(";\n")
        + ".\n"
    )
