import numpy as np
import pytest
from support.token_trees import query_documents_completions, sequences

from rl_rerank.packed.layout import pack


@pytest.mark.parametrize("seed", range(200))
def test_a_row_has_every_beginning_once_and_every_token_sees_its_own_sequence(seed):
    asked = sequences(seed, 1 + seed % 9)
    packed = pack(asked)
    beginnings = {tuple(ids[:length]) for ids, _ in asked for length in range(1, len(ids))}
    assert packed.layout.length == len(packed.input_ids) == len(beginnings)
    assert packed.counts == [len(ids) - first for ids, first in asked]
    place, label = iter(packed.places.tolist()), iter(packed.labels.tolist())
    for ids, first in asked:
        for number in range(first, len(ids)):
            predicts = next(place)
            seen = [t for t in range(predicts + 1) if predicts < packed.layout.ends[t]]
            assert packed.input_ids[seen].tolist() == ids[:number]
            assert packed.layout.positions[seen].tolist() == list(range(number))
            assert next(label) == ids[number]


@pytest.mark.parametrize("seed", range(50))
def test_segments_are_a_tree_in_depth_first_order(seed):
    layout = pack(sequences(seed, 8)).layout
    assert [s.start for s in layout.segments[1:]] == [s.stop for s in layout.segments[:-1]]
    for number, segment in enumerate(layout.segments):
        below = [s for s in layout.segments if segment in layout.ancestors(layout.segments.index(s))]
        assert segment.length > 0
        assert segment.end == max([segment.stop, *(s.stop for s in below)])
        assert segment.depth == sum(s.length for s in layout.ancestors(number))


def test_documents_share_the_query_and_completions_the_document():
    asked = query_documents_completions(0)
    layout = pack(asked).layout
    depths = [len(layout.ancestors(number)) for number in range(len(layout.segments))]
    assert max(depths) >= 3  # instruction, query, document, completion
    assert layout.length < 0.4 * sum(len(ids) - 1 for ids, _ in asked)


def test_arrays_are_taken_as_lists_are():
    asked = sequences(3, 6)
    one, other = pack(asked), pack([(np.asarray(ids, dtype=np.int32), first) for ids, first in asked])
    assert one.input_ids.tolist() == other.input_ids.tolist()
    assert one.places.tolist() == other.places.tolist()


@pytest.mark.parametrize(("ids", "first"), [([5], 1), ([5, 6], 0), ([5, 6], 2), ([], 0)])
def test_a_label_without_a_token_before_it_or_none_at_all_is_refused(ids, first):
    with pytest.raises(ValueError, match=f"a sequence of {len(ids)} tokens cannot have its first label at {first}"):
        pack([([1, 2, 3], 1), (ids, first)])
