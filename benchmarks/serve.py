# ruff: noqa: T201 (a script whose output is its table)
"""Throughput and latency of `rl-rerank serve` with many clients, against one request at a time.

    python benchmarks/serve.py [MODEL] [--clients 16] [--seconds 10] [--documents 8]

MODEL is an exported folder; without one it is a random two-layer model with the embedded tokenizer. Every request is
another one, so that none is answered with another's scores. The server is a process of its own, as in production.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import re
import statistics
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

from rl_rerank.config import ModelConfig
from rl_rerank.engines.local.checkpoint import base_model_dir, renderer
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.serving import contract

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
    """What the clients of one phase saw."""

    seconds: list[float] = field(default_factory=list)
    """Latency of each answered request."""
    errors: list[str] = field(default_factory=list)

    def row(self, clients: int, elapsed: float) -> str:
        cuts = statistics.quantiles(self.seconds, n=20)
        speed = len(self.seconds) / elapsed
        return (
            f"| {clients} | {len(self.seconds)} | {len(self.errors)} | {statistics.median(self.seconds) * 1e3:.0f} | "
            f"{cuts[18] * 1e3:.0f} | {speed:.1f} |"
        )


def tiny_export(folder: Path) -> Path:
    """A random pointwise model with the embedded tokenizer, as an exported folder."""
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
    settings, paradigm = ModelConfig(max_prompt_tokens=512), Pointwise()
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


def measure(address: str, num_clients: int, seconds: float, num_documents: int, numbers: Iterator[int]) -> float:
    """Print a row, and give the answered requests a second."""
    load, started = Load(), time.monotonic()
    arguments = (address, numbers, num_documents, started + seconds, load)
    threads = [threading.Thread(target=client, args=arguments) for _ in range(num_clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.monotonic() - started
    print(load.row(num_clients, elapsed), *load.errors[:3], sep="\n" if load.errors else "", flush=True)
    return len(load.seconds) / elapsed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, help="an exported folder; a random model without one")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--documents", type=int, default=8)
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(given.model or tiny_export(Path(folder) / "model")) as address,
    ):
        numbers = itertools.count()
        wait(address)
        print("| clients | answered | errors | p50, ms | p95, ms | requests a second |")
        print("| ---: | ---: | ---: | ---: | ---: | ---: |")
        alone = measure(address, 1, given.seconds, given.documents, numbers)
        together = measure(address, given.clients, given.seconds, given.documents, numbers)
        print(f"\n{given.clients} clients: {together / alone:.2f} times the throughput of one request at a time")


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
