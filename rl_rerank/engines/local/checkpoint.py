"""Model folders: the embedded default, a local folder, a hub id or a training stage's output."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import torch
from peft import PeftModel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from rl_rerank.config import Config, ModelConfig, trained
from rl_rerank.engines.local import adapters, embedded, hub, pyramid, tiny_vl
from rl_rerank.engines.local.auto import auto_class
from rl_rerank.engines.local.processor import save_processor
from rl_rerank.engines.local.tokenizer import load_tokenizer as load_tokenizer
from rl_rerank.engines.local.tokenizer import renderer as renderer
from rl_rerank.engines.local.tokenizer import stop_ids
from rl_rerank.io import manifest
from rl_rerank.io.cache import cache_dir as cache_dir
from rl_rerank.io.cache import made_once
from rl_rerank.io.digest import of_file
from rl_rerank.io.files import replacing_folder, write_text
from rl_rerank.io.manifest import MANIFEST

log = logging.getLogger(__name__)


def base_model_dir(model: ModelConfig) -> Path:
    """Find the folder of the configured model; convert or download it if necessary.

    Raises:
        FileNotFoundError: for a missing folder or one without a model.
        ImportError: for `smollm2` and `tiny_vl` if the package of their tokenizer is not installed.
        LookupError: for a hub id that cannot be downloaded.
    """
    if model.path == embedded.NAME:
        return _embedded_dir()
    if model.path == embedded.TINY_VL:
        return tiny_vl.folder()
    if hub.is_folder(model.path):
        return check_model_dir(Path(model.path).expanduser())
    return check_model_dir(hub.snapshot("model.path", model.path, model.revision, with_code=model.trust_remote_code))


def check_model_dir(folder: Path) -> Path:
    """Return `folder` if it has a complete model in safe files; else raise FileNotFoundError with the gap."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no model folder {str(folder)!r}")
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{str(folder)!r} holds an adapter and not a whole model: merge it into its base model first"
        )
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{str(folder)!r} is no model folder: it has no config.json")
    if not any(folder.glob("*.safetensors")):
        raise FileNotFoundError(
            f"{str(folder)!r} has no *.safetensors file; other formats are not read, because pickles can run code"
        )
    return folder


def locate(config: Config, ref: str) -> Path:
    """Find the model folder of a stage's reference: `model`, the name of a training stage, or NAME@STEP.

    An adapter checkpoint is merged once into the starting model of its stage.

    Raises:
        LookupError: if `ref` names no training stage.
        FileNotFoundError: if that stage has not saved such a model yet.
        ValueError: if a file of a checkpoint is not as it was written.
    """
    if ref == "model":
        return base_model_dir(config.model)
    name, step = trained(ref)
    stages = {name: stage for name, stage in config.stages.items() if stage.leaves == "a model"}
    if name not in stages:
        raise LookupError(f"no training stage is named {name!r}; give 'model' or one of: {', '.join(stages) or 'none'}")
    folder = Path(config.run_dir) / name
    if step is None:
        if not (folder / "model").is_dir():
            raise FileNotFoundError(
                f"stage {ref!r} has left no model at {str(folder / 'model')!r}: run that stage first"
            )
        return check_model_dir(folder / "model")
    found = folder / "checkpoints" / f"checkpoint-{step}"
    if not (found / MANIFEST).is_file():
        whole = folder.glob(f"checkpoints/checkpoint-*/{MANIFEST}")
        steps = sorted(int(path.parent.name.rpartition("-")[2]) for path in whole)
        raise FileNotFoundError(
            f"stage {name!r} has no whole checkpoint of step {step}; there are: {', '.join(map(str, steps)) or 'none'} "
            "(stages.NAME.save_steps and trl.save_total_limit decide which are kept)"
        )
    # Not the optimizer's state, which is larger than the model and not read here.
    if (reason := manifest.damage(found, "*.safetensors", "*.json")) is not None:
        raise ValueError(f"the checkpoint {ref} is damaged: {reason}")
    if (found / "adapter_config.json").is_file():
        return _merged(config, found, start=stages[name].start)
    return check_model_dir(found)


def locate_any(config: Config, place: str, ref: str) -> Path:
    """Find the model folder of a reference as `locate` does, or of a folder's path or a hub id.

    Args:
        place: the setting that names it, for the error.

    Raises:
        LookupError, FileNotFoundError: as `locate` does; or for a hub id that cannot be downloaded.
    """
    if not hub.is_path(ref):
        return locate(config, ref)
    if hub.is_folder(ref):
        return check_model_dir(Path(ref).expanduser())
    return check_model_dir(hub.snapshot(place, ref, None, with_code=config.model.trust_remote_code))


def _merged(config: Config, adapter: Path, start: str) -> Path:
    folder = adapter / "merged"
    if not folder.is_dir():
        trust = config.model.trust_remote_code
        base = load_model(source := locate(config, start), config.model.dtype, trust)
        with replacing_folder(folder) as partial:
            adapters.merge(PeftModel.from_pretrained(base, str(adapter)), str(adapter)).save_pretrained(partial)
            load_tokenizer(adapter, trust).save_pretrained(partial)
            save_processor(source, partial, trust)
    return check_model_dir(folder)


def load_model(path: str | Path, dtype: str, trust_remote_code: bool = False) -> PreTrainedModel:
    """Load a folder's model in eval mode on the CPU.

    Its generation config has none of the sampling defaults that it ships with, so that greedy is greedy, and stops at
    `stop_ids`. It is saved with the model, so that any program that loads the folder stops there.
    """
    config = AutoConfig.from_pretrained(str(path), local_files_only=True, trust_remote_code=trust_remote_code)
    model = auto_class(config).from_pretrained(
        str(path),
        config=config,
        dtype=getattr(torch, dtype),
        attn_implementation="sdpa",
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=trust_remote_code,
    )
    model.generation_config = _stopping(model.generation_config, path, trust_remote_code)
    pyramid.install(model)
    return model.eval()


def generation_config(folder: Path, trust_remote_code: bool = False) -> GenerationConfig:
    """Make the generation config that `load_model` gives a folder's model."""
    if (folder / "generation_config.json").is_file():
        shipped = GenerationConfig.from_pretrained(str(folder))
    else:
        found = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=trust_remote_code)
        shipped = GenerationConfig.from_model_config(found)
    return _stopping(shipped, folder, trust_remote_code)


def _stopping(shipped: GenerationConfig, path: str | Path, trust_remote_code: bool) -> GenerationConfig:
    # Many checkpoints ship temperature, top_p or a repetition penalty, which generate() would apply on top of ours.
    return GenerationConfig(
        bos_token_id=shipped.bos_token_id,
        eos_token_id=stop_ids(path, trust_remote_code),
        pad_token_id=shipped.pad_token_id,
    )


def copy(source: str | Path, target: Path, dtype: str, trust_remote_code: bool = False) -> None:
    """Write the model, tokenizer and processor of one folder into another, weights in `dtype`."""
    load_model(source, dtype, trust_remote_code).save_pretrained(target)
    load_tokenizer(source, trust_remote_code).save_pretrained(target)
    save_processor(source, target, trust_remote_code)


def _embedded_dir() -> Path:
    source = embedded.file()
    digest = of_file(source)

    def fill(target: Path) -> None:
        log.info("converting %s into %s (once)", source.name, cache_dir())
        _convert(source, digest, target)

    return made_once(f"smollm2-{digest[:12]}", fill)


def _convert(source: Path, digest: str, target: Path) -> None:
    """De-quantise a GGUF file of a Llama model into a plain folder of float32 safetensors."""
    tokenizer = AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name)
    read = AutoModelForCausalLM.from_pretrained(
        str(source.parent), gguf_file=source.name, dtype=torch.float32, local_files_only=True
    )
    settings = read.config.to_dict()
    # A saved quantization_config would ask every reader to de-quantise weights that are plain already.
    for unwanted in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        settings.pop(unwanted, None)
    model = LlamaForCausalLM(LlamaConfig.from_dict(settings))
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    model.save_pretrained(target)
    tokenizer.model_max_length = model.config.max_position_embeddings
    tokenizer.save_pretrained(target)
    record = {
        "name": "SmolLM2-135M-Instruct",
        "file": source.name,
        "sha256": digest,
        "weights": "de-quantised from Q4_1 to float32; not the bfloat16 weights that the hub holds under the same name",
        "license": "Apache-2.0",
    }
    write_text(target / "source.json", json.dumps(record, indent=2) + "\n")
