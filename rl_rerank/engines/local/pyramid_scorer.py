"""Log-probabilities of continuations by a pyramid, whose lower layers run once for every message.

A query's messages are the same for all of its documents, and a document's for all queries. Their hidden states at the
split are kept, the most recently used ones, so that a window of known documents costs the lower layers of its query and
the upper layers of its prompts. On the first batch a few prompts are also computed in the plain way, as whole rows.
"""

# Shape legend: Q tokens of a packed row, T tokens of a message, E size of a hidden state.

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rl_rerank.engines.local import pyramid
from rl_rerank.engines.local.scoring import Scorer
from rl_rerank.packed import head
from rl_rerank.packed.head import Asked
from rl_rerank.packed.layout import Labelled, Layout, Packed, pack

KEPT_BYTES = 2**29
"""Bytes of hidden states that are kept."""

Message = tuple[int, ...]


class PyramidScorer(Scorer):
    """Scores continuations of prompts as `Scorer` does, for a pyramid.

    Args:
        keeps: whether states are kept from one call to the next; not where the weights may change between them.

    Attributes:
        boundary: id of the token with which every message begins.
        lower_layers: number of layers whose states are kept by message.
    """

    def __init__(self, model: PreTrainedModel, *, pad_id: int, batch_tokens: int, keeps: bool) -> None:
        super().__init__(model, pad_id=pad_id, batch_tokens=batch_tokens)
        found = pyramid.of(model)
        assert found is not None
        self.refusal = None
        self.keeps = keeps
        self.boundary = found.boundary
        self.lower_layers = found.lower_layers
        body: Any = model.base_model
        self._lower = _part(body, body.layers[: found.lower_layers], norm=nn.Identity())
        self._upper = _part(body, body.layers[found.lower_layers :])
        self._kept: OrderedDict[Message, Tensor] = OrderedDict()
        self._bytes = 0

    def __call__(self, prompts: Sequence[Sequence[int]], endings: Sequence[Sequence[int]]) -> list[list[float]]:
        try:
            return super().__call__(prompts, endings)
        finally:
            if not self.keeps:
                self.forget()

    def encode(self, messages: Iterable[Message]) -> None:
        """Compute the states of messages ahead of any query, such as documents."""
        self._states(list(messages))

    def forget(self) -> None:
        """Drop all states."""
        self._kept.clear()
        self._bytes = 0

    def _packed(self, sequences: Sequence[Labelled]) -> Tensor:
        packed = pack(sequences).to(self.model.device)
        states = self._row(packed)
        hidden = _run(self._upper, packed.layout, inputs_embeds=states[None])
        asked = Asked(packed.places, packed.labels, in_float32=True)
        of_labels = hidden.index_select(0, packed.places)
        model: Any = self.model
        return head.projected(model.get_output_embeddings(), of_labels, asked, model.config.get_text_config()).log_probs

    def _row(self, packed: Packed) -> Tensor:
        """Lay the states of all prompts out as the packed row: [Q, E]."""
        distinct = list(dict.fromkeys(tuple(ids[:-1]) for ids, _ in packed.sequences))
        cut = [pyramid.split(ids, self.boundary) for ids in distinct]
        known = self._states([message for messages in cut for message in messages])
        row, places = None, _Row(packed)
        for ids, messages in zip(distinct, cut, strict=True):
            own = torch.cat([known[message] for message in messages])
            if row is None:
                row = own.new_empty(packed.layout.length, own.shape[1])
            for start, stop, place in places.pieces(ids):
                row[place : place + stop - start] = own[start:stop]
        assert row is not None
        return row

    def _states(self, messages: Sequence[Message]) -> dict[Message, Tensor]:
        """Find or compute each message's states: [T, E]."""
        distinct = dict.fromkeys(messages)
        found = {message: self._kept[message] for message in distinct if message in self._kept}
        missing = [message for message in distinct if message not in found]
        for message in found:
            self._kept.move_to_end(message)
        for some in self._divided(missing):
            found.update(self._computed(some))
        for message in missing:
            self._keep(message, found[message])
        return found

    def _divided(self, messages: Sequence[Message]) -> list[list[Message]]:
        """Divide messages into rows within the token budget."""
        rows: list[list[Message]] = []
        used = 0
        for message in messages:
            if not rows or used + len(message) > self.batch_tokens:
                rows.append([])
                used = 0
            rows[-1].append(message)
            used += len(message)
        return rows

    def _computed(self, messages: Sequence[Message]) -> dict[Message, Tensor]:
        # A sequence of a packed row ends with a label, which is not read.
        packed = pack([((*message, 0), len(message)) for message in messages]).to(self.model.device)
        hidden = _run(self._lower, packed.layout, input_ids=packed.input_ids[None])
        places = _Row(packed)
        found: dict[Message, Tensor] = {}
        for message in messages:
            pieces = [hidden[place : place + stop - start] for start, stop, place in places.pieces(message)]
            found[message] = torch.cat(pieces)
        return found

    def _keep(self, message: Message, states: Tensor) -> None:
        self._kept[message] = states
        self._bytes += states.nbytes
        while self._bytes > KEPT_BYTES and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes


class _Row:
    """Where the tokens of sequences stand in their packed row."""

    def __init__(self, packed: Packed) -> None:
        self._segments = packed.layout.segments
        ids = packed.input_ids.tolist()
        # Sequences that begin alike share a segment, so its parent and its first token tell it.
        self._numbers = {(s.parent, ids[s.start]): number for number, s in enumerate(self._segments)}

    def pieces(self, ids: Sequence[int]) -> Iterator[tuple[int, int, int]]:
        """Yield (start, stop, place): tokens start to stop of a sequence stand in the row from `place` on."""
        parent, start = -1, 0
        while start < len(ids):
            parent = self._numbers[parent, ids[start]]
            segment = self._segments[parent]
            stop = min(start + segment.length, len(ids))
            yield start, stop, segment.start
            start = stop


def _part(body: nn.Module, layers: Sequence[nn.Module], **modules: nn.Module) -> Any:
    """Make a model of some of a model's layers, which shares their weights."""
    part: Any = copy.copy(body)
    part._modules = {**body._modules, "layers": nn.ModuleList(layers), **modules}
    # Messages are separated here, not by the hook.
    part._forward_pre_hooks, part._forward_pre_hooks_with_kwargs = OrderedDict(), OrderedDict()
    return part


def _run(part: Any, layout: Layout, **given: Tensor) -> Tensor:
    """Compute the hidden states of a packed row's tokens: [Q, E]."""
    [of_tokens] = given.values()
    device = of_tokens.device
    outputs = part(
        **given,
        # No mask is made of one that has four dimensions, and none is needed.
        attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device),
        position_ids=torch.from_numpy(layout.positions).to(device)[None],
        packed=layout,
        use_cache=False,
    )
    return outputs.last_hidden_state[0]
