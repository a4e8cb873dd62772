"""Tokenizers with chat templates that think as those of real families do, each in our own words."""

from functools import cache

from transformers import PreTrainedTokenizerFast

from support.small_tokenizers import LLAMA3, build

_IM = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
_ASK = "{% if add_generation_prompt %}<|im_start|>assistant\n"

TEMPLATES = {
    # The model opens a thought by itself, unless an empty one is closed for it.
    "qwen3": _IM + _ASK + "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}",
    "qwen3_thinking": _IM + _ASK + "<think>\n{% endif %}",
    # One or the other, and thinking is the default.
    "qwen35": _IM + _ASK + "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% else %}<think>\n{% endif %}{% endif %}",
    # The same, and not thinking is the default.
    "exaone4": _IM + _ASK + "{% if enable_thinking is defined and enable_thinking is true %}<think>\n"
    "{% else %}<think>\n\n</think>\n\n{% endif %}{% endif %}",
    # The switch is a line of the system message too.
    "smollm3": "{% set on = enable_thinking if enable_thinking is defined else true %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'system' %}{{ '/think' if on else '/no_think' }}"
    "\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    + _ASK
    + "{% if not on %}<think>\n\n</think>\n{% endif %}{% endif %}",
    "deepseek_v31": "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>{{ m.content }}<|im_end|>"
    "{% else %}{{ m.content }}\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>"
    "{% if thinking is defined and thinking %}<think>{% else %}</think>{% endif %}{% endif %}",
    "r1": "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% elif m.role == 'user' %}"
    "<|im_start|>{{ m.content }}{% else %}<|endoftext|>{{ m.content.split('</think>')[-1] }}<|im_end|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|endoftext|><think>\n{% endif %}",
    "thinking_tag": _IM + _ASK + "<thinking>{% endif %}",
    "exaone_deep": _IM + _ASK + "<thought>\n{% endif %}",
    "command_a": _IM + _ASK + "<|START_THINKING|>{% if reasoning is defined and not reasoning %}<|END_THINKING|>"
    "{% endif %}{% endif %}",
    "chatml": _IM + _ASK + "{% endif %}",
    "gemma": "<bos>{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}"
    "{% endif %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
    "llama3": LLAMA3,
    # The system message goes into the last question.
    "mistral": "<s>{% if messages[0].role == 'system' %}{% set system = messages[0].content + '\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}{% for m in messages %}"
    "{% if m.role == 'user' %}[INST] {% if loop.last %}{{ system }}{% endif %}{{ m.content }}[/INST]"
    "{% else %} {{ m.content }}</s>{% endif %}{% endfor %}",
}
_CONTROLS = {
    "gemma": ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"],
    "llama3": ["<|end_of_text|>", "<|eot_id|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>"],
    "mistral": ["<unk>", "</s>", "<s>", "[INST]", "[/INST]"],
}


@cache
def tokenizer(family: str) -> PreTrainedTokenizerFast:
    """A tokenizer with the family's template; `<think>` is a token of those that think, as in real ones."""
    controls = _CONTROLS.get(family, ["<|endoftext|>", "<|im_end|>", "<|im_start|>"])
    found = build(controls, TEMPLATES[family], controls[1], controls[0])
    found.name_or_path = f"models/{family}"
    if "think" in TEMPLATES[family]:
        found.add_tokens(["<think>", "</think>"])
    return found
