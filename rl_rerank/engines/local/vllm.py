"""The vLLM engine, in process. The same code on CUDA and on the CPU build."""

import gc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from rl_rerank.engines import constraint_json
from rl_rerank.engines.base import NO_USAGE, Capability, OnCompletion
from rl_rerank.engines.decode import completion, draws
from rl_rerank.engines.local import vllm_environment
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.types import Completion, Prompt, Sampling

vllm_environment.apply()

from vllm import LLM, SamplingParams  # noqa: E402
from vllm.outputs import RequestOutput  # noqa: E402

from rl_rerank.engines.local import vllm_mask  # noqa: E402

# Room for an answer in the default context; engine.args.max_model_len sets the context itself.
_ANSWER_TOKENS = 4096
_MAX_LOGPROBS = 20
"""vLLM's own limit of the log-probabilities for one token."""
_CHUNK = 4096
"""Fewest tokens of a forward of an LLM that is built elsewhere."""
_MASK = [f"{vllm_mask.__name__}:{vllm_mask.ConstrainedDecoding.__name__}"]
PROMPTS_AT_ONCE = 512 if torch.cuda.is_available() else 32
"""Prompts per call with a completion callback, which a kill can lose. Fewer leave a GPU idle at a call's end."""


class VLLMEngine:
    """Answers prompts with vLLM. Prompts go in as token ids, so nothing is templated twice."""

    capabilities = frozenset({Capability.score, Capability.logprobs, Capability.constraint})
    usage = NO_USAGE

    def __init__(
        self,
        model: str | Path | LLM,
        renderer: Renderer,
        *,
        dtype: str = "float32",
        args: Mapping[str, Any] | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        """
        Args:
            model: a model folder, or an LLM in memory, built with `borrowed_args` among its arguments.
            renderer: turns prompts into this model's token ids.
            args: any argument of vllm.LLM, where a folder is given; they override the defaults here.
        """
        self.renderer = renderer
        self.llm = model if isinstance(model, LLM) else _load(model, renderer, dtype, args or {}, trust_remote_code)
        self.context: int = self.llm.llm_engine.model_config.max_model_len
        self.stop_ids = renderer.stop_ids

    def render(self, prompt: Prompt) -> tuple[int, ...]:
        """Render the prompt as token ids."""
        return self.renderer(prompt).token_ids

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, on_completion: OnCompletion | None = None
    ) -> list[list[Completion]]:
        """Generate `sampling.num_generations` completions per prompt, with one prefill per prompt."""
        is_random = sampling.temperature > 0
        asked = [self.render(prompt) for prompt in prompts]
        params = [
            SamplingParams(
                n=sampling.num_generations,
                max_tokens=sampling.max_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                # vLLM seeds a request's samples with this and the numbers that follow.
                seed=(seed + first) % 2**31 if is_random else None,
                stop_token_ids=sorted(self.stop_ids),
                logprobs=0,
                detokenize=False,
                extra_args=constraint_json.carried(prompt.constraint, self.renderer.end_id) or None,
            )
            for prompt, (seed, first) in zip(prompts, draws(asked, sampling), strict=True)
        ]
        self._check_context(asked, sampling.max_tokens)
        found: list[list[Completion]] = []
        for part in _parts(len(prompts), on_completion):
            for row, output in zip(asked[part], self._run(asked[part], params[part]), strict=True):
                found.append([self._completion(o, len(row)) for o in output.outputs])
                if on_completion is not None:
                    for sample, answer in enumerate(found[-1]):
                        on_completion(len(found) - 1, sample, answer)
        return found

    def score(
        self, prompts: Sequence[Prompt], continuations: Sequence[str], on_completion: OnCompletion | None = None
    ) -> list[Completion]:
        """Score `continuations` right after each prompt by log-probability over the full vocabulary."""
        if not continuations:
            raise ValueError("score() was given no continuations")
        endings = [self.renderer.continuation_ids(text) for text in continuations]
        asked = [self.render(prompt) for prompt in prompts]
        self._check_context(asked, max(map(len, endings)))
        found: list[Completion] = []
        for part in _parts(len(prompts), on_completion):
            for row, values in zip(asked[part], self._score_sequences(asked[part], endings), strict=True):
                scores = dict(zip(continuations, values, strict=True))
                found.append(Completion("", finish_reason="score", continuations=scores, prompt_tokens=len(row)))
                if on_completion is not None:
                    on_completion(len(found) - 1, 0, found[-1])
        return found

    def close(self) -> None:
        """Free the model's memory."""
        self.llm.llm_engine.engine_core.shutdown()
        del self.llm
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _score_sequences(
        self, rows: Sequence[tuple[int, ...]], endings: Sequence[tuple[int, ...]]
    ) -> list[list[float]]:
        """Compute the log-probabilities of the endings after each row, token by token.

        All tokens of an ending but the last are appended to the row, which the engine then has in its cache.
        """
        # Beginnings of endings -> the tokens that follow them in one.
        following: dict[tuple[int, ...], set[int]] = {}
        for ending in endings:
            for i, token in enumerate(ending):
                following.setdefault(ending[:i], set()).add(token)
        heads = sorted(following, key=len)
        found: dict[tuple[int, ...], list[dict[int, float]]] = {}
        found[()] = self._score_tokens(rows, [following[()]] * len(rows))
        longer = [row + head for row in rows for head in heads[1:]]
        further = self._score_tokens(longer, [following[head] for head in heads[1:]] * len(rows))
        for number, head in enumerate(heads[1:]):
            found[head] = further[number :: len(heads) - 1]
        return [
            [sum(found[ending[:i]][row][token] for i, token in enumerate(ending)) for ending in endings]
            for row in range(len(rows))
        ]

    def _score_tokens(self, rows: Sequence[tuple[int, ...]], tokens: Sequence[set[int]]) -> list[dict[int, float]]:
        """Map each requested token to its log-probability after the row."""
        # Exactly these tokens, however unlikely: no top-k that a token could fall out of.
        params = [
            SamplingParams(max_tokens=1, temperature=0.0, logprob_token_ids=sorted(wanted), detokenize=False)
            for wanted in tokens
        ]
        found: list[dict[int, float]] = []
        for output, wanted in zip(self._run(rows, params), tokens, strict=True):
            logprobs = output.outputs[0].logprobs
            assert logprobs is not None
            found.append({token: logprobs[0][token].logprob for token in wanted})
        return found

    def _check_context(self, rows: Sequence[tuple[int, ...]], max_tokens: int) -> None:
        longest = max(map(len, rows), default=0)
        if longest + max_tokens > self.context:
            raise ValueError(
                f"a prompt of {longest} tokens and an answer of up to {max_tokens} do not fit vLLM's context of "
                f"{self.context}; raise engine.args.max_model_len or lower model.max_prompt_tokens"
            )

    def _run(
        self, rows: Sequence[tuple[int, ...]], params: SamplingParams | Sequence[SamplingParams]
    ) -> list[RequestOutput]:
        return self.llm.generate([{"prompt_token_ids": list(ids)} for ids in rows], params, use_tqdm=False)

    def _completion(self, output: Any, prompt_tokens: int) -> Completion:
        ids = list(output.token_ids)
        logprobs = [step[token].logprob for step, token in zip(output.logprobs, ids, strict=True)]
        return completion(ids, self.stop_ids, self.renderer.tokenizer, logprobs, prompt_tokens)


def borrowed_args(context: int, *, continuations: int, is_constrained: bool, is_seeded: bool) -> dict[str, Any]:
    """Arguments that an LLM which is built elsewhere needs for prompts that a `VLLMEngine` answers with it.

    Its `logprobs_mode` may be processed_logprobs. Continuations, and greedy answers without a constraint, then have the
    same log-probabilities as under raw_logprobs; other answers have those after the temperature and the constraint.

    Args:
        context: tokens of its longest row.
        continuations: most continuations that a prompt is scored by.
        is_constrained: whether answers are restricted to a form.
        is_seeded: whether answers are sampled.
    """
    found: dict[str, Any] = {"max_logprobs": max(continuations, _MAX_LOGPROBS)}
    if is_constrained:
        found["logits_processors"] = _MASK
    if is_seeded and not torch.cuda.is_available():
        # As in `_load`: then every prompt has to fit into one forward.
        found |= {"enable_chunked_prefill": False, "max_num_batched_tokens": max(context, _CHUNK)}
    return found


def _load(path: str | Path, renderer: Renderer, dtype: str, args: Mapping[str, Any], trust_remote_code: bool) -> LLM:
    config = AutoConfig.from_pretrained(str(path), trust_remote_code=trust_remote_code)
    wanted = renderer.max_prompt_tokens + _ANSWER_TOKENS
    defaults: dict[str, Any] = {
        "max_model_len": min(wanted, getattr(config.get_text_config(), "max_position_embeddings", wanted)),
        "enforce_eager": not torch.cuda.is_available(),
        # A prompt that is cut in two is an error where samples are seeded and the generator is the CPU's.
        "enable_chunked_prefill": torch.cuda.is_available(),
        "enable_prefix_caching": True,
        "seed": 0,
    }
    fixed: dict[str, Any] = {
        "model": str(path),
        "dtype": dtype,
        "trust_remote_code": trust_remote_code,
        # Sampling defaults that ship with a model would be applied on top of ours.
        "generation_config": "vllm",
        "logits_processors": _MASK,
        # Log-probabilities before temperature and masks, under the whole vocabulary.
        "logprobs_mode": "raw_logprobs",
    }
    given = dict(args)
    if clash := sorted(given.keys() & fixed.keys()):
        raise ValueError(f"engine.args.{clash[0]} cannot be set: the engine decides it from the model's settings")
    return LLM(**fixed, **(defaults | given))


def _parts(count: int, on_completion: OnCompletion | None) -> list[slice]:
    """Slice `count` prompts: all at once, which is fastest, unless there is a callback."""
    step = max(count, 1) if on_completion is None else PROMPTS_AT_ONCE
    return [slice(start, start + step) for start in range(0, count, step)]
