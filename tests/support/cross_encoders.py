"""A cross-encoder with random weights."""

from pathlib import Path

import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

TEXT = "how to sort an array in place the is stable number of elements capital france paris a title"


def make(folder: Path, num_labels: int = 1) -> Path:
    """A random BERT of 2 layers with a head, and a word-level tokenizer; context 64."""
    folder.mkdir(parents=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *TEXT.split(), "[", "]", "sep"]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(vocabulary)))
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=64)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, num_labels=num_labels, **sizes)
    model = BertForSequenceClassification(config)
    # A fresh head gives nearly the same number for everything.
    torch.nn.init.normal_(model.classifier.weight, std=3.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
