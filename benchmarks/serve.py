# ruff: noqa: T201 (a script whose output is its table)
"""Throughput and latency of `rl-rerank serve` with many clients, against one request at a time.

    python benchmarks/serve.py [MODEL] [--paradigm listwise] [--clients 16] [--seconds 10] [--documents 8]

MODEL is an exported folder; without one it is a random two-layer model with the embedded tokenizer. Every request is
another one, so that none is answered with another's scores. The server is a process of its own, as in production; its
CPU time for a request does not depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from rl_rerank.config import ModelConfig
from rl_rerank.engines.local.checkpoint import base_model_dir, renderer
from rl_rerank.paradigms.base import Paradigm
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.serving import contract

PARADIGMS = {paradigm.name: paradigm for paradigm in (Listwise(), Pointwise())}
"""One that generates, so that each token of all answers of a batch is one forward, and one that scores."""

WORDS = (
    "ice",
    "cave",
    "glacier",
    "form",
    "melt",
    "water",
    "snow",
    "sort",
    "array",
    "axis",
    "bread",
    "flour",
    "moon",
    "tide",
)


@dataclass
class Load:
    """What the clients of one phase saw, and what the server spent."""

    num_clients: int
    seconds: list[float] = field(default_factory=list)
    """Latency of each answered request."""
    errors: list[str] = field(default_factory=list)
    elapsed: float = 0.0
    cpu_seconds: float = 0.0
    """Of the server's process."""
    batches: float = 0.0

    @property
    def throughput(self) -> float:
        """Answered requests a second."""
        return len(self.seconds) / self.elapsed

    @property
    def cpu(self) -> float:
        """Seconds of the server's CPU time for an answered request."""
        return self.cpu_seconds / max(len(self.seconds), 1)

    def row(self) -> str:
        p50, p95 = np.percentile(self.seconds or [np.nan], [50, 95]) * 1e3
        return (
            f"| {self.num_clients} | {len(self.seconds)} | {len(self.errors)} | {p50:.0f} | {p95:.0f} | "
            f"{self.throughput:.1f} | {len(self.seconds) / max(self.batches, 1):.1f} | {self.cpu * 1e3:.0f} |"
        )


HEAD = """\
| clients | answered | errors | p50, ms | p95, ms | requests a second | requests a batch | CPU of a request, ms |
| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"""


def tiny_export(folder: Path, paradigm: Paradigm) -> Path:
    """A random model with the embedded tokenizer, as an exported folder."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(base_model_dir(ModelConfig(path="smollm2")))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=1024,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = ModelConfig(max_prompt_tokens=900)
    rendering = renderer(settings, folder)
    contract.write(
        folder,
        contract.Contract(
            paradigm=paradigm.name,
            paradigm_params=contract.parameters(paradigm),
            max_prompt_tokens=settings.max_prompt_tokens,
            dtype="float32",
            prompt_fingerprint=contract.fingerprint(paradigm, rendering),
            base_model="random",
        ),
    )
    return folder


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The host and port of a server process."""
    command = [sys.executable, "-m", "rl_rerank", "serve", f"model={folder}", "name=model", "port=0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        address = next(found[1] for line in process.stderr if (found := re.search(r"at (http://\S+:\d+)", line)))
        yield urlsplit(address).netloc
        process.terminate()
        _, errors = process.communicate(timeout=60)
        print(f"\nThe server ended with status {process.returncode}. {errors}".strip())
    finally:
        process.kill()


def request(number: int, num_documents: int) -> str:
    """A body whose texts depend on the number."""
    words = itertools.islice(itertools.cycle(WORDS), number % len(WORDS), None)
    texts = [" ".join(itertools.islice(words, 40)) for _ in range(num_documents)]
    return json.dumps({"query": f"{WORDS[number % len(WORDS)]} {number}", "documents": texts})


def client(address: str, numbers: Iterator[int], num_documents: int, end: float, load: Load) -> None:
    """Send request after request over one connection, until the time is over."""
    connection = http.client.HTTPConnection(address, timeout=120)
    while time.monotonic() < end:
        body = request(next(numbers), num_documents)
        started = time.monotonic()
        try:
            connection.request("POST", "/v1/rerank", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as e:
            load.errors.append(repr(e))
            connection.close()
            continue
        if response.status == 200 and len(json.loads(content)["results"]) == num_documents:
            load.seconds.append(time.monotonic() - started)
        else:
            load.errors.append(f"{response.status}: {content[:80]!r}")
    connection.close()


def measure(address: str, num_clients: int, seconds: float, num_documents: int, numbers: Iterator[int]) -> Load:
    """Let clients send requests for some seconds; each of them finishes its last one."""
    load, before, started = Load(num_clients), counters(address), time.monotonic()
    arguments = (address, numbers, num_documents, started + seconds, load)
    threads = [threading.Thread(target=client, args=arguments) for _ in range(num_clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    load.elapsed = time.monotonic() - started
    load.cpu_seconds, load.batches = (now - then for now, then in zip(counters(address), before, strict=True))
    return load


def counters(address: str) -> tuple[float, float]:
    """The server's CPU seconds and its batches so far."""
    connection = http.client.HTTPConnection(address, timeout=120)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return float(values["process_cpu_seconds_total"]), float(values["rl_rerank_batch_requests_count"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, help="an exported folder; a random model without one")
    parser.add_argument("--paradigm", choices=PARADIGMS, default="listwise", help="of the random model")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--documents", type=int, default=8)
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(given.model or tiny_export(Path(folder) / "model", PARADIGMS[given.paradigm])) as address,
    ):
        numbers = itertools.count()
        wait(address)
        print(HEAD)
        loads = []
        for num_clients in (1, given.clients):
            loads.append(load := measure(address, num_clients, given.seconds, given.documents, numbers))
            print(load.row(), *load.errors[:3], sep="\n", flush=True)
        alone, together = loads
        print(
            f"\n{given.clients} clients: {together.throughput / alone.throughput:.2f} times the throughput of one "
            f"request at a time; a request alone takes {alone.cpu / together.cpu:.2f} times the CPU time"
        )


def wait(address: str) -> None:
    """Until the server listens."""
    for _ in range(600):
        connection = http.client.HTTPConnection(address)
        try:
            connection.request("GET", "/healthz")
            connection.getresponse().read()
            return
        except OSError:
            time.sleep(0.1)
        finally:
            connection.close()
    raise TimeoutError(f"{address} does not listen")


if __name__ == "__main__":
    main()
