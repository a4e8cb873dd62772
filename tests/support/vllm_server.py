"""A vLLM server on this machine, as launch/vllm_server.sh starts one, less the weight transfer that needs CUDA."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

NAME = "tiny"
"""What the server calls its model."""
SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "VLLM_SERVER_DEV_MODE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


@contextlib.contextmanager
def serving(model_dir: Path, log: Path) -> Iterator[str]:
    """Within it, a server answers for the model; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model_dir)),
        *("--host", "127.0.0.1", "--port", str(port), "--served-model-name", NAME, "--dtype", "float32"),
        *("--enforce-eager", "--max-model-len", "1024", "--num-gpu-blocks-override", "64"),
        *("--logits-processors", "rl_rerank.engines.local.vllm_mask:ConstrainedDecoding"),
        *("--logprobs-mode", "processed_logprobs"),
    ]
    with log.open("w") as out:
        process = subprocess.Popen(command, env={**os.environ, **SETTINGS}, stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + 300
        while b"200" not in _status(port):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def _status(port: int) -> bytes:
    """The first line of the server's answer to GET /health; empty while it does not listen."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"GET /health HTTP/1.0\r\n\r\n")
            return connection.recv(64)
    except OSError:
        return b""
