"""Random token sequences that share beginnings, and what attention over their row has to give."""

import random

import numpy as np
import torch

Asked = tuple[list[int], int]


def sequences(seed: int, count: int, *, vocabulary: int = 4, longest: int = 15) -> list[Asked]:
    """Sequences with the number of their first label; most continue a beginning of an earlier one."""
    rng = random.Random(seed)
    found: list[Asked] = []
    for _ in range(count):
        length = rng.randint(2, longest)
        ids = [rng.randrange(vocabulary) for _ in range(length)]
        if found and rng.random() < 0.8:
            earlier = rng.choice(found)[0]
            ids = earlier[: rng.randint(1, len(earlier))] + ids[: rng.randint(1, length)]
        found.append((ids, rng.randint(1, len(ids) - 1)))
    return found


def query_documents_completions(seed: int, *, vocabulary: int = 97) -> list[Asked]:
    """An instruction, 2 queries behind it, 3 documents behind each, 3 completions behind each, one of them twice."""
    rng = random.Random(seed)

    def drawn(low: int, high: int) -> list[int]:
        return [rng.randrange(1, vocabulary) for _ in range(rng.randint(low, high))]

    root = drawn(7, 7)
    prompts = [query + drawn(3, 12) for query in (root + drawn(5, 5), root + drawn(4, 4)) for _ in range(3)]
    found = [(prompt + drawn(1, 9), len(prompt)) for prompt in prompts for _ in range(3)]
    return [*found, found[0]]


def naive_attention(query, key, value, layout, window):
    """The whole matrix of scores, masked: [1, T, H, D]."""
    repeats = query.size(1) // key.size(1)
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    places, positions = np.arange(layout.length), layout.positions
    sees = (places[:, None] >= places) & (places[:, None] < layout.ends)
    if window is not None:
        sees &= positions[:, None] - positions < window
    scores = query @ key.transpose(-1, -2) / query.size(-1) ** 0.5
    weights = scores.masked_fill(~torch.from_numpy(sees).to(query.device), -torch.inf).softmax(-1)
    return (weights @ value).transpose(1, 2)
