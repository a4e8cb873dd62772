"""Every weight that an optimizer steps moves: through each kind of stage, type of model, arithmetic, and with LoRA."""

import shutil

import pytest
import torch
from safetensors.torch import load_file
from support.launching import two_processes
from support.trained_weights import (
    ARITHMETICS,
    DTYPES,
    KINDS,
    WAYS,
    Case,
    bound,
    change,
    composed,
    prepare,
    saved,
    started,
    train,
)
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from rl_rerank.engines.local import amx, checkpoint
from rl_rerank.experiment.compose import compose
from rl_rerank.experiment.experiment import Experiment
from rl_rerank.training.loop import precision


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model_dir):
    made = tmp_path_factory.mktemp("weights")
    prepare(made, tiny_model_dir)
    return made


def trained(folder, case):
    """The weights of a run of the case, which other tests may use too."""
    if not (folder / case.name / case.kind).exists():
        train(folder, case)
    return saved(folder, case)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_ten_steps_move_the_weights_that_they_move_in_float32(folder, kind, dtype, arithmetic, way):
    case = Case(kind, dtype, arithmetic, way)
    assert {weight.dtype for weight in trained(folder, case).values()} == {torch.float32}
    found = change(folder, ".", case, trained(folder, case.reference))
    assert found.moved >= 0.95
    assert found.apart <= bound(case)
    assert {w.dtype for w in load_file(folder / case.name / kind / "model/model.safetensors").values()} == {
        getattr(torch, dtype)
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ranking", "tokens"])
def test_a_resumed_bfloat16_model_continues_from_the_same_bits(folder, kind):
    case = Case(kind, "bfloat16", "bf16", "full")
    whole = trained(folder, case)
    run = folder / case.name / kind
    shutil.rmtree(run / "model")
    shutil.rmtree(run / "checkpoints/checkpoint-10")
    train(folder, case)
    for name, weight in saved(folder, case).items():
        assert torch.equal(weight, whole[name]), name


@pytest.mark.slow
def test_a_checkpoint_starts_a_stage_in_the_stored_type(folder, monkeypatch):
    case = Case("ranking", "bfloat16", "bf16", "full")
    trained(folder, case)
    monkeypatch.chdir(folder)
    config = composed(case)
    kept = checkpoint.load_model(checkpoint.locate(config, "ranking@10"), config.model.dtype)
    saved_model = checkpoint.load_model(checkpoint.locate(config, "ranking"), config.model.dtype)
    for one, other in zip(kept.parameters(), saved_model.parameters(), strict=True):
        assert one.dtype == torch.bfloat16 and torch.equal(one, other)


@pytest.mark.process
@pytest.mark.parametrize("strategy", ["zero2", "zero3"])
def test_two_processes_move_what_one_moves_in_float32(folder, strategy):
    cases = [Case("ranking", "bfloat16", "bf16", "full"), Case("choice", "float32", "bf16", "lora")]
    started(two_processes(strategy), folder, strategy, cases)
    for case in cases:
        found = change(folder, strategy, case, trained(folder, case.reference))
        assert found.moved >= 0.95
        assert found.apart <= bound(case)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_an_optimizer_on_weights_without_masters_is_refused_with_the_arithmetic(tiny_model_dir, tmp_path, dtype):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=getattr(torch, dtype))
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(0.02)
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[], learning_rate=1e-6)
    # .02 lies between 2^-6 and 2^-5, where bfloat16 numbers are 2^-13 apart and float16 numbers 2^-16.
    half = {"bfloat16": "6e-05", "float16": "8e-06"}[dtype]
    with pytest.raises(ValueError, match=f"embed_tokens.weight in {dtype} .* about 0.02, .* is {half}; .*=1e-06"):
        precision.require_masters(Trainer(model=model, args=args))


@pytest.mark.parametrize("override", ["model.dtype=float16", "stages.grpo.trl.fp16=true"])
def test_float16_training_is_refused_before_anything_starts(override):
    with pytest.raises(ValueError, match=r"stages\.\w+.*float16"):
        Experiment.of(compose("run", ["experiment=quickstart_tokens", override]))


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with or without CUDA, bfloat16 on it, and AMX, as Linux describes it."""

    def set_up(*, cuda: bool, type_: bool, flags: str) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: type_)
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
        monkeypatch.setattr(amx, "CPUINFO", tmp_path / "cpuinfo")
        amx._is_listed.cache_clear()

    for name in amx.LIMITS:
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    yield set_up
    amx._is_listed.cache_clear()


@pytest.mark.parametrize(
    ("cuda", "type_", "flags", "limit", "expected"),
    [
        (True, True, "", None, True),
        (True, False, "amx_bf16", None, False),
        (False, False, "fpu avx512_bf16 amx_tile", None, False),
        (False, False, "fpu amx_bf16 amx_tile", None, True),
        (False, False, "amx_bf16", "avx512_core_bf16", False),
        (False, False, "amx_bf16", "AVX512_CORE_AMX", True),
    ],
)
def test_bfloat16_is_the_default_where_it_is_faster(
    machine, monkeypatch, tmp_path, cuda, type_, flags, limit, expected
):
    stage = compose("run", ["experiment=quickstart_tokens"]).stages["grpo"]
    assert stage.bf16 is None
    machine(cuda=cuda, type_=type_, flags=flags)
    if limit is not None:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert precision.uses_bf16(stage, tmp_path) is expected
    stage.bf16 = not expected
    assert precision.uses_bf16(stage, tmp_path) is not expected


def test_a_stage_continues_in_the_arithmetic_that_it_began_with(machine, tmp_path):
    stage = compose("run", ["experiment=quickstart_tokens"]).stages["grpo"]
    machine(cuda=False, type_=False, flags="amx_bf16")
    precision.record(stage, tmp_path)
    machine(cuda=False, type_=False, flags="fpu")
    assert precision.uses_bf16(stage, tmp_path / "another") is False
    precision.record(stage, tmp_path)
    assert precision.uses_bf16(stage, tmp_path) is True
