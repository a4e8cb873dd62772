"""An engine for OpenAI's protocol: a paid service, or your own server such as vLLM.

Prompts are sent as messages, which the server renders with its model's template. With the model's tokenizer they are
sent as token ids, the same as in all other engines; a vLLM server then also returns tokens with their
log-probabilities, and those of given tokens. A server started with `--logits-processors
rl_rerank.engines.local.vllm_mask:ConstrainedDecoding` enforces constraints; one constrained request detects it. Scores
do not use the log-probabilities of a server's top tokens, because other tokens have none.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any

from rl_rerank.config import ModelConfig
from rl_rerank.engines import constraint_json
from rl_rerank.engines.base import Capability, OnCompletion
from rl_rerank.engines.decode import completion, draws
from rl_rerank.engines.served.chat import Chat
from rl_rerank.engines.served.client import Client, Malformed, Request
from rl_rerank.engines.served.kinds import OpenAI
from rl_rerank.prompts.constraints import Permutation
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.types import Completion, Constraint, Prompt, Sampling

TEMPLATE_TOKENS = 64
"""Upper bound of template tokens around the messages, for the cost cap."""
PROBED = "[1] > [2] > [3]."
"""Text as long as the constrained answer to a probe, with its end, at one token per character."""
VLLM_SAMPLING = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
"""Overrides of the model's own sampling defaults, which vLLM applies otherwise."""
VLLM_TOKENS = {
    "logprobs": 0,
    "return_token_ids": True,
    "skip_special_tokens": False,
    "spaces_between_special_tokens": False,
}


class OpenAIEngine:
    """Requests one completion at a time from a server.

    Args:
        model: its token budgets limit the prompts.
        renderer: turns prompts into the served model's token ids; None sends messages.
    """

    def __init__(self, args: OpenAI, model: ModelConfig, renderer: Renderer | None = None) -> None:
        self.args = args
        self.client = Client(args)
        self.renderer = renderer
        self.chat = Chat(
            max_prompt_tokens=model.max_prompt_tokens,
            max_passage_tokens=model.max_passage_tokens,
            max_image_tokens=model.max_image_tokens,
        )
        self.stop_ids = frozenset[int]() if renderer is None else renderer.stop_ids

    @cached_property
    def capabilities(self) -> frozenset[Capability]:
        """Capabilities, detected by requests to the server if necessary."""
        if self.renderer is None:
            return frozenset({Capability.images})  # whether the model sees, the server knows
        if not self._is_vllm:
            return frozenset()
        scores = {Capability.score} if self._scores_tokens() else set()
        holds = {Capability.constraint} if self._holds_answers() else set()
        return frozenset({Capability.logprobs, *scores, *holds})

    @property
    def usage(self) -> Mapping[str, float]:
        """Calls, tokens and retries, and their cost if prices are set."""
        has_prices = self.args.prompt_price + self.args.completion_price > 0
        return {**self.client.usage, **({"cost": round(self.client.cost, 6)} if has_prices else {})}

    def render(self, prompt: Prompt) -> Any:
        """Render the prompt as token ids or messages."""
        return self.chat(prompt) if self.renderer is None else self.renderer(prompt).token_ids

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, on_completion: OnCompletion | None = None
    ) -> list[list[Completion]]:
        asked = [self.render(prompt) for prompt in prompts]
        rows = [(place, sample) for place in range(len(asked)) for sample in range(sampling.num_generations)]
        seeds = draws(asked, sampling)
        requests = [
            self._request(asked[place], sampling, seeds[place][0] + seeds[place][1] + sample, prompts[place].constraint)
            for place, sample in rows
        ]
        found: dict[tuple[int, int], Completion] = {}

        def keep(i: int, answer: Completion) -> None:
            found[rows[i]] = answer
            if on_completion is not None:
                on_completion(*rows[i], answer)

        self.client.send(requests, keep)
        return [[found[place, i] for i in range(sampling.num_generations)] for place in range(len(asked))]

    def score(
        self, prompts: Sequence[Prompt], continuations: Sequence[str], on_completion: OnCompletion | None = None
    ) -> list[Completion]:
        """Score one-token continuations right after each prompt by log-probability over the full vocabulary."""
        tokens = self._one_token_each(continuations)
        requests = [self._score_request(self.render(prompt), tokens) for prompt in prompts]
        found: dict[int, Completion] = {}

        def keep(place: int, values: list[float] | None) -> None:
            if values is None:
                raise ValueError(f"{self.args.base_url} returns no log-probabilities of given tokens")
            scores = dict(zip(continuations, values, strict=True))
            found[place] = Completion("", finish_reason="score", continuations=scores)
            if on_completion is not None:
                on_completion(place, 0, found[place])

        self.client.send(requests, keep)
        return [found[place] for place in range(len(prompts))]

    def close(self) -> None:
        """Nothing to free."""

    @cached_property
    def _is_vllm(self) -> bool:
        """Whether the server identifies as vLLM; it must then serve the model."""
        listed: list[Any] = []
        try:
            self.client.send([Request("models", None, _models)], lambda _, models: listed.extend(models))
        except (LookupError, ValueError):
            return False  # Not every server lists its models.
        served = [model.get("id") for model in listed if model.get("owned_by") == "vllm"]
        if served and self.args.model not in served:
            raise LookupError(
                f"{self.args.base_url} serves {', '.join(map(str, served))}, and not "
                f"engine.args.model={self.args.model!r}"
            )
        return bool(served)

    def _scores_tokens(self) -> bool:
        assert self.renderer is not None
        found: list[Any] = []
        probe = self._score_request([self.renderer.end_id], [self.renderer.end_id])
        try:
            self.client.send([probe], lambda _, values: found.append(values))
        except ValueError:
            return False
        return found != [None]

    def _holds_answers(self) -> bool:
        """Whether the server enforces constraints, tested with a constrained answer to an empty prompt."""
        assert self.renderer is not None
        form = Permutation(3)
        found: list[Completion] = []
        probe = self._request([self.renderer.end_id], Sampling(len(PROBED)), 0, form)
        try:
            self.client.send([probe], lambda _, answer: found.append(answer))
        except ValueError:
            return False
        return form.is_whole(found[0].text)

    def _request(self, asked: Any, sampling: Sampling, seed: int, constraint: Constraint | None) -> Request[Completion]:
        body: dict[str, Any] = {"model": self.args.model, "temperature": sampling.temperature}
        if sampling.temperature > 0:
            body |= {"seed": seed % 2**31, "top_p": sampling.top_p}
        if self._is_vllm:
            body |= VLLM_SAMPLING
        if self.renderer is None:
            body |= {self.args.max_tokens_name: sampling.max_tokens}
            most = self.chat.most_tokens(asked) + TEMPLATE_TOKENS
            # Made when it is sent: the images of all prompts would take much memory.
            made = partial(self._with_messages, body, asked)
            return Request("chat/completions", made, self._read_message, (most, sampling.max_tokens))
        body |= {"prompt": list(asked), "max_tokens": sampling.max_tokens}
        if self._is_vllm:
            body |= {**VLLM_TOKENS, "stop_token_ids": sorted(self.stop_ids)}
            if constraint is not None:
                body["vllm_xargs"] = constraint_json.carried(constraint, self.renderer.end_id)
        return Request("completions", self.args.final(body), self._read_tokens, (len(asked), sampling.max_tokens))

    def _with_messages(self, body: dict[str, Any], asked: Any) -> dict[str, Any]:
        return self.args.final({**body, "messages": self.chat.sent(asked)})

    def _score_request(self, ids: Sequence[int], tokens: Sequence[int]) -> Request[list[float] | None]:
        body = {"model": self.args.model, "prompt": list(ids), "max_tokens": 1, "temperature": 0.0, "logprobs": 1}
        body |= {"logprob_token_ids": sorted(set(tokens)), "return_tokens_as_token_ids": True}
        return Request("completions", body, lambda reply: _logprobs(reply, tokens), (len(ids), 1))

    def _one_token_each(self, continuations: Sequence[str]) -> list[int]:
        if not continuations:
            raise ValueError("score() was given no continuations")
        if self.renderer is None:
            raise ValueError("a served model scores continuations only where engine.args.tokenizer is given")
        tokens: list[int] = []
        for text in continuations:
            ids = self.renderer.continuation_ids(text)
            if len(ids) != 1:
                raise ValueError(
                    f"{text!r} is {len(ids)} tokens of the tokenizer {self.args.tokenizer!r}, and a server gives the "
                    "log-probabilities of single tokens only; choose another word, or engine=hf or vllm"
                )
            tokens += ids
        return tokens

    def _read_message(self, reply: Any) -> Completion:
        choice = _choice(reply)
        message = choice.get("message")
        if not isinstance(message, dict) or not isinstance(message.get("content") or "", str):
            raise Malformed(f"the reply has no message: {str(choice)[:80]}")
        text = message.get("content") or ""
        thought = message.get("reasoning_content") or message.get("reasoning")
        if self.args.keep_reasoning and isinstance(thought, str):
            text = f"<think>\n{thought.strip()}\n</think>\n\n{text}"
        return Completion(text, finish_reason=_finish_reason(choice))

    def _read_tokens(self, reply: Any) -> Completion:
        assert self.renderer is not None
        choice = _choice(reply)
        ids, text = choice.get("token_ids"), choice.get("text")
        if not isinstance(text, str):
            raise Malformed(f"the reply has no text: {str(choice)[:80]}")
        if not isinstance(ids, list):
            return Completion(text, finish_reason=_finish_reason(choice))
        # The server may stop at tokens that only the model's own files declare.
        ended = frozenset(ids[-1:]) if _finish_reason(choice) == "stop" else frozenset[int]()
        logprobs = _numbers((choice.get("logprobs") or {}).get("token_logprobs"))
        return completion(ids, self.stop_ids | ended, self.renderer.tokenizer, logprobs)


def _models(reply: Any) -> list[dict[str, Any]]:
    data = reply.get("data") if isinstance(reply, dict) else None
    return [model for model in data if isinstance(model, dict)] if isinstance(data, list) else []


def _choice(reply: Any) -> dict[str, Any]:
    choices = reply.get("choices") if isinstance(reply, dict) else None
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise Malformed(f"the reply has not exactly one choice: {str(reply)[:80]}")
    return choices[0]


def _finish_reason(choice: Mapping[str, Any]) -> str:
    return "length" if choice.get("finish_reason") == "length" else "stop"


def _logprobs(reply: Any, tokens: Sequence[int]) -> list[float] | None:
    """Extract the log-probabilities of `tokens` at the first position; None if the server lacks support."""
    first = ((_choice(reply).get("logprobs") or {}).get("top_logprobs") or [{}])[0] or {}
    names = [f"token_id:{token}" for token in tokens]
    return _numbers([first[name] for name in names]) if all(name in first for name in names) else None


def _numbers(values: Sequence[float | None] | None) -> list[float] | None:
    """The values, with NaN for null: JSON has no NaN."""
    return None if values is None else [math.nan if value is None else value for value in values]
