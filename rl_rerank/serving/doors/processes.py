"""Servers over an exported folder, each a process of its own on this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from rl_rerank.io.subprocesses import end_with_parent
from rl_rerank.serving.contract import Contract
from rl_rerank.serving.vllm_pairs import score_arguments

NAME = "exported"
"""What a server calls the model."""
SECONDS = 600.0
"""Time in which a server must answer first."""
ENDING = 60.0
"""Time in which it must end."""
LAST = 2000
"""Characters of its log that an error shows."""
VLLM = {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
CPU = {"VLLM_CPU_KVCACHE_SPACE": "1"}
ROOM = 64
"""Tokens of the context behind the longest prompt: one is generated, and multi-token answers are read in place."""


@contextmanager
def reranking(folder: Path, trust_remote_code: bool) -> Iterator[str]:
    """The address of `rl-rerank serve` over the folder."""
    code = ["trust_remote_code=true"] if trust_remote_code else []
    port = _free_port()
    command = [sys.executable, "-m", "rl_rerank", "serve", f"model={folder}", f"name={NAME}", f"port={port}", *code]
    with _listening(command, port, {}, "/healthz") as address:
        yield address


@contextmanager
def generating(folder: Path, terms: Contract, trust_remote_code: bool) -> Iterator[str]:
    """The address of a vLLM server that generates, which has `/generative_scoring`."""
    with _vllm(folder, terms, trust_remote_code, []) as address:
        yield address


@contextmanager
def scoring(folder: Path, terms: Contract, tokens: Sequence[str], trust_remote_code: bool) -> Iterator[str]:
    """The address of a vLLM server that classifies pairs by the logits of two tokens, which has `/score`.

    Args:
        tokens: as they stand in the vocabulary, the positive one first.
    """
    with _vllm(folder, terms, trust_remote_code, score_arguments(str(folder), tokens)) as address:
        yield address


@contextmanager
def _vllm(folder: Path, terms: Contract, trust_remote_code: bool, more: Sequence[str]) -> Iterator[str]:
    port = _free_port()
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)),
        *("--host", "127.0.0.1", "--port", str(port), "--served-model-name", NAME, "--dtype", terms.dtype),
        *("--max-model-len", str(terms.max_prompt_tokens + ROOM), "--generation-config", "vllm"),
        *(["--trust-remote-code"] if trust_remote_code else []),
        *([] if torch.cuda.is_available() else ["--enforce-eager"]),
        *more,
    ]
    environment = VLLM | ({} if torch.cuda.is_available() else CPU)
    with _listening(command, port, environment, "/health") as address:
        yield address


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def _listening(command: Sequence[str], port: int, environment: Mapping[str, str], path: str) -> Iterator[str]:
    """Run a server until the context ends; it is ready when it answers at the path."""
    address = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        # Variables that are set already win.
        process = subprocess.Popen(
            command, env={**environment, **os.environ}, stdout=log, stderr=log, preexec_fn=end_with_parent
        )
        try:
            deadline = time.monotonic() + SECONDS
            while not _answers(address + path):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise RuntimeError(f"its server did not start: ... {' '.join(log.read()[-LAST:].split())}")
                time.sleep(0.3)
            yield address
        finally:
            process.terminate()
            try:
                process.wait(ENDING)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except OSError:
        return False
