"""What layers write out later is what they would have written at once, whatever happens between."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from numpy.typing import NDArray

from ov_kvcrush.plan import LayerGeometry
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE
from ov_kvcrush.runtime.sequences.layer_cache import LayerCache
from ov_kvcrush.runtime.sequences.sequence import Sequence
from ov_kvcrush.runtime.sequences.tail import Tail
from tests.support.failures import InjectedError, counted

LAYERS = tuple(LayerGeometry(2 * heads, heads, 4, 4) for heads in (1, 3, 2))
HEADS = [slice(0, 1), slice(1, 4), slice(4, 6)]


@dataclass
class Plain:
    """The same as a layer holds, by KV head: position and score of each token, in their order.

    Attributes:
        held: by head.
        slots: by head, of each.
        is_scored: whether all have a score.
        was_cut: whether tokens may lie in other slots than their order tells.
    """

    held: list[list[tuple[int, float]]]
    slots: list[list[int]]
    is_scored: bool = True
    was_cut: bool = False

    @property
    def length(self) -> int:
        return len(self.held[0])

    def append(self, first: int, scores: NDArray[np.float32] | None, count: int) -> None:
        for head, (held, slots) in enumerate(zip(self.held, self.slots, strict=True)):
            slots += range(len(held), len(held) + count)
            for n in range(count):
                held.append((first + n, 0.0 if scores is None else float(scores[n, head])))
        self.is_scored &= scores is not None

    def rewind(self, count: int) -> None:
        left = self.length - count
        self.held = [held[:left] for held in self.held]
        self.slots = [slots[:left] for slots in self.slots]

    def copy(self) -> Plain:
        held, slots = [list(rows) for rows in self.held], [list(rows) for rows in self.slots]
        return Plain(held, slots, self.is_scored, self.was_cut)


@dataclass
class Both:
    """A sequence, and what its layers hold."""

    sequence: Sequence
    layers: list[Plain] = field(
        default_factory=lambda: [
            Plain([[] for _ in range(one.num_kv_heads)], [[] for _ in range(one.num_kv_heads)])
            for one in LAYERS
        ]
    )


class SettlingMachine(RuleBasedStateMachine):
    """Sequences grow and shrink; now and then somebody looks at one of their layers."""

    def __init__(self) -> None:
        super().__init__()
        self.random = np.random.default_rng(0)
        self.all = [Both(Sequence([], LAYERS, None, has_gate=True))]

    @rule(data=st.data(), count=st.integers(1, 100), scored=st.integers(0, 9))
    def append(self, data: st.DataObject, count: int, scored: int) -> None:
        both = self.one(data)
        self.grow(both, count, scored > 0)

    @rule(data=st.data(), times=st.integers(1, 40))
    def decode(self, data: st.DataObject, times: int) -> None:
        both = self.one(data)
        for _ in range(times):
            self.grow(both, 1, True)

    def grow(self, both: Both, count: int, is_scored: bool) -> None:
        scores = self.random.normal(size=(count, HEADS[-1].stop)).astype(np.float32)
        first = both.sequence.num_cached
        both.sequence.tokens += range(count)
        both.sequence.append(count, scores if is_scored else None)
        for plain, heads in zip(both.layers, HEADS, strict=True):
            plain.append(first, scores[:, heads] if is_scored else None, count)
        scores[...] = np.nan  # the next inference overwrites it

    @rule(data=st.data(), count=st.integers(0, 60))
    def rewind(self, data: st.DataObject, count: int) -> None:
        both = self.one(data)
        sequence = both.sequence
        left = max(sequence.rewind_floor, sequence.num_cached - count)
        count = sequence.num_cached - left
        sequence.rewind_to(left)
        for plain in both.layers:
            plain.rewind(count)

    @rule(data=st.data(), number=st.integers(0, len(LAYERS) - 1))
    def cut(self, data: st.DataObject, number: int) -> None:
        """One layer keeps its newest and some of the others, each head its own, in front slots."""
        both = self.one(data)
        plain, layer = both.layers[number], both.sequence.layers[number]
        count = plain.length // 2
        chosen = np.array(
            [np.sort(self.random.permutation(plain.length)[:count]) for _ in plain.held], np.int32
        ).reshape(len(plain.held), count)
        slots = np.array([self.random.permutation(count) for _ in plain.held], np.int32)
        slots = slots.reshape(chosen.shape)
        layer.keep(chosen, slots)
        plain.held = [
            [held[n] for n in row] for held, row in zip(plain.held, chosen.tolist(), strict=True)
        ]
        plain.slots = [[int(slot) for slot in row] for row in slots]
        plain.was_cut = True
        both.sequence.rewind_floor = both.sequence.num_cached

    @rule(data=st.data(), number=st.integers(0, len(LAYERS) - 1))
    def slide(self, data: st.DataObject, number: int) -> None:
        both = self.one(data)
        plain, layer = both.layers[number], both.sequence.layers[number]
        if plain.was_cut or plain.length < 2 * PAGE_SIZE:
            return
        layer.drop_front_pages(1)
        plain.held = [held[PAGE_SIZE:] for held in plain.held]
        plain.slots = [list(range(len(held))) for held in plain.held]
        both.sequence.rewind_floor = both.sequence.num_cached

    @rule(data=st.data(), number=st.integers(0, len(LAYERS) - 1))
    def grow_one_layer(self, data: st.DataObject, number: int) -> None:
        """As a lent sequence, whose layers see different parts of another one."""
        both = self.one(data)
        plain, layer = both.layers[number], both.sequence.layers[number]
        scores = self.random.normal(size=(3, len(plain.held))).astype(np.float32)
        layer.append(7, 3, scores)
        plain.append(7, scores, 3)
        layer.rewind(1)
        plain.rewind(1)
        both.sequence.rewind_floor = both.sequence.num_cached

    @precondition(lambda self: len(self.all) < 4)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        both = self.one(data)
        twin = both.sequence.twin(list(both.sequence.tokens))
        both.sequence.clone_into(twin)
        self.all.append(Both(twin, [plain.copy() for plain in both.layers]))

    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        both = self.one(data)
        for layer in both.sequence.layers:
            layer.take_pages()
        both.sequence.forget_cache()
        both.sequence.tokens.clear()
        both.layers = Both(both.sequence).layers

    @rule(data=st.data(), number=st.integers(0, len(LAYERS) - 1))
    def look(self, data: st.DataObject, number: int) -> None:
        both = self.one(data)
        self.compare(both.sequence.layers[number], both.layers[number])

    @invariant()
    def lengths_are_known(self) -> None:
        for both in self.all:
            lengths = [plain.length for plain in both.layers]
            assert both.sequence.lengths == lengths
            assert [layer.length for layer in both.sequence.layers] == lengths
            heads = [len(layer.held) for layer in both.layers]
        held = sum(length * count for length, count in zip(lengths, heads, strict=True))
        assert both.sequence.num_kept == round(held / sum(heads))

    def teardown(self) -> None:
        for both in self.all:
            for layer, plain in zip(both.sequence.layers, both.layers, strict=True):
                self.compare(layer, plain)

    def compare(self, layer: LayerCache, plain: Plain) -> None:
        wanted = [[position for position, _ in held] for held in plain.held]
        assert layer.positions.tolist() == wanted
        assert layer.slots.tolist() == plain.slots
        if plain.is_scored:
            assert layer.gate is not None
            assert layer.gate.tolist() == [[score for _, score in held] for held in plain.held]
        else:
            assert layer.gate is None

    def one(self, data: st.DataObject) -> Both:
        return data.draw(st.sampled_from(self.all))


TestSettling = SettlingMachine.TestCase


@pytest.mark.parametrize("fails_at", [1, 2, 3])
def test_a_layer_that_fails_to_write_out_does_so_later(fails_at: int) -> None:
    sequence = Sequence([], LAYERS, None, has_gate=True)
    scores = np.arange(5 * HEADS[-1].stop, dtype=np.float32).reshape(5, -1)
    sequence.append(5, scores)
    with counted((LayerCache, "_write"), fails_at), pytest.raises(InjectedError):
        sequence.settle()
    for layer, heads in zip(sequence.layers, HEADS, strict=True):
        assert layer.length == 5
        assert layer.positions.tolist() == [list(range(5))] * (heads.stop - heads.start)
        assert layer.gate is not None
        np.testing.assert_array_equal(layer.gate, scores[:, heads].T)


def test_attention_that_is_accumulated_begins_with_nothing() -> None:
    sequence = Sequence([], LAYERS, None, accumulates=True)
    for count in (1, 30, 1):
        sequence.append(count)
        attention = sequence.layers[1].attention
        assert attention is not None
        assert not attention[:, -count:].any()
        attention += 1
    assert sequence.layers[1].attention is not None
    assert sequence.layers[1].attention[0].tolist() == [3.0] + [2.0] * 30 + [1.0]


def test_what_is_kept_for_later_is_bounded() -> None:
    sequence = Sequence([], LAYERS, None, has_gate=True)
    most = 0
    for _ in range(2000):
        sequence.append(1, np.zeros((1, HEADS[-1].stop), np.float32))
        most = max(most, sequence.ledger.tail.num_kept)
    assert 0 < most < 1000


def test_scores_are_told_of_the_newest_tokens() -> None:
    tail = Tail()
    scores = np.arange(24, dtype=np.float32).reshape(12, 2)
    for begin in (0, 4, 8):
        tail.push(begin, 4, scores[begin : begin + 4])
    tail.rewind(3)
    found = tail.scores(6, slice(1, 2))
    assert found is not None
    np.testing.assert_array_equal(found, scores[3:9, 1:])
    assert tail.positions(6).tolist() == [3, 4, 5, 6, 7, 8]
