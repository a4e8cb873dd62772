"""The transformers engine: one prefill per prompt, shared by all its samples; continuations are scored by `scoring`.
Generation itself is plain `generate()`.

Shapes: B rows of a batch, L padded length, V vocabulary.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from rl_rerank.engines.base import NO_USAGE, Capability, OnCompletion
from rl_rerank.engines.decode import completion, draws
from rl_rerank.engines.local import eyes, pyramid
from rl_rerank.engines.local.checkpoint import load_model
from rl_rerank.engines.local.prefill import left_padded, prefilled
from rl_rerank.engines.local.pyramid_scorer import PyramidScorer
from rl_rerank.engines.local.scoring import Scorer, padded_batches
from rl_rerank.engines.local.token_mask import TokenMask
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.types import Completion, Constraint, Prompt, Sampling


class HFEngine:
    """Answers prompts with a transformers model, on a GPU if available."""

    capabilities = frozenset({Capability.score, Capability.logprobs, Capability.constraint})
    usage = NO_USAGE

    def __init__(
        self,
        model: str | Path | PreTrainedModel,
        renderer: Renderer,
        *,
        dtype: str = "float32",
        batch_tokens: int = 16384,
        bf16: bool = False,
        trust_remote_code: bool = False,
    ) -> None:
        """
        Args:
            model: a model folder, or a model in memory, which keeps its device and dtype.
            renderer: turns prompts into this model's token ids.
            batch_tokens: token budget of one forward, padding included; a longer row is a batch by itself.
            bf16: compute in bfloat16, with weights of `dtype`.
        """
        if batch_tokens < 1:
            raise ValueError(f"engine.batch_tokens must be at least 1; got {batch_tokens}")
        if isinstance(model, PreTrainedModel):
            self.model = model
        else:
            loaded = load_model(model, dtype, trust_remote_code)
            self.model = loaded.to("cuda") if torch.cuda.is_available() else loaded  # pyright: ignore[reportArgumentType]
        self.renderer = renderer
        if renderer.vision is not None:
            eyes.install(self.model, renderer.vision)
            self.capabilities = HFEngine.capabilities | {Capability.images}
        self.batch_tokens = batch_tokens
        self.bf16 = bf16
        self.context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        self.stop_ids = renderer.stop_ids
        pad = renderer.tokenizer.pad_token_id
        self.pad_id: int = renderer.end_id if pad is None else pad
        self.mask = TokenMask(renderer.tokenizer, renderer.end_id)
        self.scorer = self._scorer(keeps=not isinstance(model, PreTrainedModel))

    def render(self, prompt: Prompt) -> tuple[int, ...]:
        """Render the prompt as token ids."""
        return self.renderer(prompt).token_ids

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, on_completion: OnCompletion | None = None
    ) -> list[list[Completion]]:
        """Generate `sampling.num_generations` completions per prompt, independent of the other prompts."""
        asked = [self.render(prompt) for prompt in prompts]
        self._check_context(asked, sampling.max_tokens)
        rows = [
            (place, sample, (seed, first + sample), asked[place])
            for place, (seed, first) in enumerate(draws(asked, sampling))
            for sample in range(sampling.num_generations)
        ]
        found: list[list[Completion | None]] = [[None] * sampling.num_generations for _ in prompts]
        with torch.no_grad(), _Inference(self.model), self._arithmetic():
            for batch in padded_batches([len(ids) + sampling.max_tokens for *_, ids in rows], self.batch_tokens):
                picked = [rows[i] for i in batch]
                answers = self._generate_batch(
                    [ids for *_, ids in picked],
                    [seed for _, _, seed, _ in picked],
                    [prompts[place].constraint for place, *_ in picked],
                    sampling,
                )
                for (place, sample, *_), answer in zip(picked, answers, strict=True):
                    found[place][sample] = answer
                    if on_completion is not None:
                        on_completion(place, sample, answer)
        return [[answer for answer in answers if answer is not None] for answers in found]

    def score(
        self, prompts: Sequence[Prompt], continuations: Sequence[str], on_completion: OnCompletion | None = None
    ) -> list[Completion]:
        """Score `continuations` right after each prompt by log-probability over the full vocabulary."""
        if not continuations:
            raise ValueError("score() was given no continuations")
        endings = [self.renderer.continuation_ids(text) for text in continuations]
        asked = [self.render(prompt) for prompt in prompts]
        self._check_context(asked, max(map(len, endings)))
        found: list[Completion | None] = [None] * len(prompts)
        with torch.no_grad(), _Inference(self.model), self._arithmetic():
            for batch in self.scorer.batches(asked, endings):
                scored = self.scorer([asked[place] for place in batch], endings)
                for place, values in zip(batch, scored, strict=True):
                    scores = dict(zip(continuations, values, strict=True))
                    found[place] = answer = Completion(
                        "", finish_reason="score", continuations=scores, prompt_tokens=len(asked[place])
                    )
                    if on_completion is not None:
                        on_completion(place, 0, answer)
        return [answer for answer in found if answer is not None]

    def close(self) -> None:
        """Free the model's memory."""
        del self.model, self.scorer
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _scorer(self, *, keeps: bool) -> Scorer:
        """Make the scorer.

        Args:
            keeps: whether the weights stay as they are; a model in memory may be in training.
        """
        asked: dict[str, Any] = {"pad_id": self.pad_id, "batch_tokens": self.batch_tokens}
        if pyramid.of(self.model) is None:
            return Scorer(self.model, **asked)
        return PyramidScorer(self.model, **asked, keeps=keeps)

    def _arithmetic(self) -> contextlib.AbstractContextManager[Any]:
        # Disabled autocast would end that of a trainer, within which dev queries are ranked.
        return torch.autocast(self.model.device.type, torch.bfloat16) if self.bf16 else contextlib.nullcontext()

    def _generate_batch(
        self,
        rows: Sequence[tuple[int, ...]],
        seeds: Sequence[tuple[int, int]],
        constraints: Sequence[Constraint | None],
        sampling: Sampling,
    ) -> list[Completion]:
        input_ids, attention_mask, position_ids = left_padded(rows, self.pad_id, self.model.device)
        constrained = _Constrained(self.mask, constraints, input_ids.shape[1]) if any(constraints) else None
        choose = _Draw(constrained, sampling, seeds) if sampling.temperature > 0 else _Choose(constrained)
        distinct = {ids: number for number, ids in enumerate(dict.fromkeys(rows))}
        cache = None
        if len(distinct) < len(rows):
            once = left_padded(list(distinct), self.pad_id, self.model.device)
            cache = prefilled(self.model, *once, [distinct[ids] for ids in rows])
        output = self.model.generate(  # pyright: ignore[reportCallIssue]
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            generation_config=GenerationConfig(
                max_new_tokens=sampling.max_tokens,
                do_sample=False,
                eos_token_id=sorted(self.stop_ids),
                pad_token_id=self.pad_id,
            ),
            logits_processor=LogitsProcessorList([choose]),
        )
        answers = output[:, input_ids.shape[1] :].tolist()
        logprobs = torch.stack(choose.logprobs, dim=1).tolist()
        return [
            completion(ids, self.stop_ids, self.renderer.tokenizer, values, prompt_tokens=len(row))
            for ids, values, row in zip(answers, logprobs, rows, strict=True)
        ]

    def _check_context(self, rows: Sequence[Sequence[int]], extra: int) -> None:
        longest = max(map(len, rows), default=0)
        if self.context is not None and longest + extra > self.context:
            raise ValueError(
                f"a prompt of {longest} tokens and an answer of up to {extra} do not fit the model's context of "
                f"{self.context}; lower model.max_prompt_tokens"
            )


class _Constrained:
    """Masks all tokens that a row's constraint does not allow next; `start` is the first answer column."""

    def __init__(self, mask: TokenMask, constraints: Sequence[Constraint | None], start: int) -> None:
        self.mask = mask
        self.constraints = constraints
        self.start = start

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        allowed_scores = scores.clone()
        for row, (constraint, ids) in enumerate(
            zip(self.constraints, input_ids[:, self.start :].tolist(), strict=True)
        ):
            if constraint is not None:
                allowed = list(self.mask.allowed(self.mask.text(ids, constraint), constraint))
                allowed_scores[row] = -torch.inf
                allowed_scores[row, allowed] = scores[row, allowed]
        return allowed_scores


class _Choose(LogitsProcessor):
    """Keeps only the likeliest token of each row that `constrained` allows, so that greedy search returns it.

    `logprobs` collects the tokens' log-probabilities under the model, without temperature or constraint: one (B,)
    tensor per step.
    """

    def __init__(self, constrained: _Constrained | None) -> None:
        self.constrained = constrained
        self.logprobs: list[Tensor] = []

    def token(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> Tensor:
        """Choose the next token of every row: (B, 1)."""
        return scores.argmax(dim=-1, keepdim=True)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        allowed = scores if self.constrained is None else self.constrained(input_ids, scores)
        token = self.token(input_ids, allowed)  # pyright: ignore[reportArgumentType]
        self.logprobs.append(scores.float().log_softmax(dim=-1).gather(1, token).squeeze(1))
        return torch.full_like(scores, -torch.inf).scatter(1, token, 0.0)  # pyright: ignore[reportReturnType]


class _Draw(_Choose):
    """Samples each next token.

    Every row has its own generator, seeded by its prompt and its sample number, so samples do not depend on batching.
    """

    def __init__(self, constrained: _Constrained | None, sampling: Sampling, rows: Sequence[tuple[int, int]]) -> None:
        super().__init__(constrained)
        # Integers hash to themselves in a tuple, independently of PYTHONHASHSEED.
        seeds = [hash(row) % 2**63 for row in rows]
        uniform = [torch.rand(sampling.max_tokens, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        self.uniform = torch.stack(uniform, dim=1).double()
        self.warpers: list[LogitsProcessor] = [TemperatureLogitsWarper(sampling.temperature)]
        if sampling.top_p < 1:
            self.warpers.append(TopPLogitsWarper(sampling.top_p))

    def token(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> Tensor:
        for warper in self.warpers:
            scores = warper(input_ids, scores)  # pyright: ignore[reportAssignmentType]
        # Inverse of the cumulative distribution, in float64: float32 sums over a vocabulary lose the tail.
        cumulative = scores.double().softmax(dim=-1).cumsum(dim=-1)
        point = self.uniform[len(self.logprobs)].to(scores.device).unsqueeze(1) * cumulative[:, -1:]
        return torch.searchsorted(cumulative, point, right=True).clamp(max=scores.shape[-1] - 1)


class _Inference:
    """A context with the model in eval mode, which restores its previous mode."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.was_training = model.training

    def __enter__(self) -> None:
        self.model.eval()

    def __exit__(self, *_: object) -> None:
        self.model.train(self.was_training)
