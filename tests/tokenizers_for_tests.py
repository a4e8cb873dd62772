"""Byte-level BPE tokenizers in three chat styles, trained in a moment on a few sentences."""

from functools import cache

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEXT = [
    "Is the passage relevant to the query? Query: how are glacier caves formed? Passage: yes no yes no Answer yes or no.",
    "Rank the passages by relevance to the query. Answer with all identifiers, most relevant first, like [2] > [1].",
    'Score each passage\'s relevance to the query from 0 to 10. Answer in JSON, like {"[1]": 3, "[2]": 7}.',
    "yes\nno\nyes\nno\n the of and to in is a for that with as on by this are from at or an be not it which",
]

CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\nDefault<|im_end|>\n{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "<|begin_of_text|>{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL = (
    "<s>{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}"
    "{% elif m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]{% else %}{{ m['content'] }}</s>{% endif %}{% endfor %}"
)


def _build(specials: list[str], template: str, end: str, pad: str) -> PreTrainedTokenizerFast:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(TEXT * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=end, pad_token=pad)
    tokenizer.chat_template = template
    return tokenizer


@cache
def chatml() -> PreTrainedTokenizerFast:
    return _build(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], CHATML, "<|im_end|>", "<|endoftext|>")


@cache
def llama3() -> PreTrainedTokenizerFast:
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    return _build(names, LLAMA3, "<|eot_id|>", "<|end_of_text|>")


@cache
def mistral() -> PreTrainedTokenizerFast:
    return _build(["<unk>", "<s>", "</s>", "[INST]", "[/INST]"], MISTRAL, "</s>", "<unk>")
