"""The doctor's findings on installations that are known to be broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import chat_templates

from rl_rerank.cli import doctor


def tokenizer(folder: Path, **values: object) -> Path:
    (folder / "tokenizer_config.json").write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize(
    ("values", "levels", "fragment"),
    [
        ({"pad_token": "<pad>", "eos_token": "<end>", "chat_template": "x"}, ["ok", "ok"], "pad token <pad>"),
        (
            {"pad_token": "<end>", "eos_token": "<end>", "chat_template": "x"},
            ["note", "ok"],
            "the pad token is the end token",
        ),
        (
            {"pad_token": "<end>", "eos_token": {"content": "<end>"}, "chat_template": "x"},
            ["note", "ok"],
            "is the end token",
        ),
        ({"pad_token": None, "eos_token": "<end>", "chat_template": "x"}, ["note", "ok"], "no pad token"),
        ({"chat_template": "x"}, ["broken", "ok"], "no end token"),
        ({"pad_token": "<pad>", "eos_token": "<end>"}, ["ok", "note"], "no chat template"),
    ],
)
def test_traps_of_a_tokenizer_are_found(tmp_path: Path, values: dict[str, object], levels: list[str], fragment: str):
    findings = list(doctor.tokenizer_traps(tokenizer(tmp_path, **values)))
    assert [f.level for f in findings] == levels
    assert any(fragment in f.text for f in findings)


def test_a_chat_template_may_be_a_file_of_its_own(tmp_path: Path):
    (tmp_path / "chat_template.jinja").write_text("x")
    findings = list(doctor.tokenizer_traps(tokenizer(tmp_path, pad_token="<pad>", eos_token="<end>")))
    assert [f.level for f in findings] == ["ok", "ok"]


@pytest.mark.parametrize(
    ("family", "levels", "fragments"),
    [
        (
            "qwen3",
            ["ok", "ok"],
            ['without reasoning stand where they are read with template_kwargs {"enable_thinking"', ""],
        ),
        ("r1", ["note", "ok"], ["ends prompts with '<|endoftext|><think>", "with reasoning stand where they are read"]),
        ("llama3", ["ok", "ok"], ["without reasoning", "with reasoning"]),
    ],
)
def test_a_template_that_thinks_is_told(tmp_path: Path, family: str, levels: list[str], fragments: list[str]):
    chat_templates.tokenizer(family).save_pretrained(tmp_path)
    findings = list(doctor.tokenizer_traps(tmp_path))[-2:]
    assert [f.level for f in findings] == levels
    assert all(fragment in f.text for f, fragment in zip(findings, fragments, strict=True))


def test_a_tokenizer_that_is_larger_than_the_model_is_told(tmp_path: Path):
    chat_templates.tokenizer("qwen3").save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"vocab_size": 300}')
    assert "tokens and the model embeds 300" in list(doctor.tokenizer_traps(tmp_path))[-1].text


def test_a_folder_without_a_tokenizer_is_no_model_folder(tmp_path: Path):
    [finding] = doctor.tokenizer_traps(tmp_path)
    assert finding.is_broken


def test_every_tested_version_has_a_line():
    lines = [f.text for f in doctor.versions()]
    assert all(any(line.startswith(name) for line in lines) for name in doctor.TESTED)
    assert not [f for f in doctor.versions() if f.is_broken]


def test_room_and_cores_are_told():
    assert any("CPU cores" in f.text for f in doctor.devices())
    assert any("disk free" in f.text for f in doctor.space())


@pytest.mark.process
def test_a_package_that_does_not_import_is_reported_and_not_raised(tmp_path: Path):
    (tmp_path / "torch.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    (tmp_path / "vllm.py").write_text("import os; os.abort()\n")
    for name in ("transformers", "trl", "peft", "deepspeed"):
        (tmp_path / f"{name}.py").write_text("import torch\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    ended = subprocess.run(
        [sys.executable, "-m", "rl_rerank", "doctor"], env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert "broken  `import torch` fails (exit status 1): RuntimeError: operator torchvision::nms" in ended.stdout
    assert "broken  `from vllm import LLM` fails (signal 6)" in ended.stdout
    assert "Traceback" not in ended.stderr


@pytest.mark.process
def test_gpus_that_torch_does_not_find_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'GPU 0: one'\necho 'GPU 1: two'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    (tmp_path / "torch.py").write_text("class cuda:\n    device_count = staticmethod(int)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [f.text for f in doctor.devices() if f.is_broken] == [
        "nvidia-smi lists 2 GPUs, torch finds none: its build does not fit the driver"
    ]


def test_what_deepspeed_compiles_with_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [f.text for f in doctor.compilers()] == [
        "launcher.strategy=zero3-offload needs c++ and ninja, not found on the PATH"
    ]
    for tool in ("c++", "ninja"):
        (tmp_path / tool).touch(mode=0o755)
    assert not list(doctor.compilers())
