"""Grammars made ready for a model's tokens: outside the engine's thread, each once."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Collection
from concurrent.futures import Future
from functools import cached_property, lru_cache
from threading import BoundedSemaphore, Lock
from typing import TYPE_CHECKING

import numpy as np

from ov_kvcrush.errors import GrammarError
from ov_kvcrush.runtime.grammar.grammar import Grammar, GrammarKind, spelled
from ov_kvcrush.runtime.grammar.token_mask import TokenMask, reason_of
from ov_kvcrush.runtime.grammar.token_trie import TokenTrie

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits
    from openvino_genai import Tokenizer

MAX_BUILT_AT_A_TIME = 2
"""Each keeps a processor for as much as a second, which the engine would have."""

# What is kept ready: a grammar takes some hundred times the memory of its text.
_MAX_KEPT = 64
_MAX_KEPT_CHARACTERS = 2**20

# All below llguidance's own: everybody else's step waits for a mask. At 20,000 items an ambiguous
# grammar took 270 ms a token of a vocabulary of 152,000, at 5,000 it is refused after 6; schemas of
# hundreds of properties need few.
_STEP_ITEMS = 5_000
_STEP_FUEL = 100_000
_LEXER_STATES = 50_000


class BuiltGrammar:
    """A grammar for one model's tokens; from any thread.

    Args:
        matcher: at the beginning of a text; not changed.
        trie: of the tokens.
    """

    def __init__(self, matcher: LLMatcher, trie: TokenTrie) -> None:
        self._matcher = matcher
        self._trie = trie

    def mask(self, stop_token_ids: Collection[int]) -> TokenMask:
        """What follows one sequence.

        Args:
            stop_token_ids: that end an answer. Those that are text, and not marked special, are
                text to the grammar too.
        """
        ends = self._trie.specials.intersection(stop_token_ids)
        return TokenMask(self._matcher.deep_copy(), self._trie.end, ends)


class GrammarBuilder:
    """Builds grammars for the tokens of ``tokenizer``, and keeps those used last; from any thread.

    Args:
        tokenizer: of the model. Its tokens are read with the first grammar: 0.6 s with 150,000.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._kept: OrderedDict[Grammar, Future[BuiltGrammar]] = OrderedDict()
        self._lock = Lock()
        self._reading = Lock()
        self._places = BoundedSemaphore(MAX_BUILT_AT_A_TIME)

    def is_built(self, grammar: Grammar) -> bool:
        """Whether :meth:`build` has it at once."""
        with self._lock:
            known = self._kept.get(grammar)
        return known is not None and known.done()

    def build(self, grammar: Grammar) -> BuiltGrammar:
        """``grammar`` for the tokens of the model; up to a second and more where it is new.

        Raises:
            GrammarError: it is not one, is too large, or has what is not served.
        """
        with self._lock:
            future = self._kept.get(grammar)
            is_new = future is None
            if future is None:
                future = self._kept[grammar] = Future()
            self._kept.move_to_end(grammar)
        if is_new:
            self._complete(grammar, future)
        return future.result()

    def _complete(self, grammar: Grammar, future: Future[BuiltGrammar]) -> None:
        try:
            with self._places:
                built = self._built(grammar)
        except BaseException as error:
            with self._lock:
                self._kept.pop(grammar, None)
            future.set_exception(error)
            return
        future.set_result(built)
        with self._lock:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        size = sum(len(grammar.text) for grammar in self._kept)
        while len(self._kept) > _MAX_KEPT or (size > _MAX_KEPT_CHARACTERS and len(self._kept) > 1):
            oldest, _ = self._kept.popitem(last=False)
            size -= len(oldest.text)

    def _built(self, grammar: Grammar) -> BuiltGrammar:
        from llguidance import LLMatcher

        source = _source(grammar)
        with self._reading:
            trie = self._trie
        matcher = LLMatcher(trie.tokenizer, source, log_level=0, limits=_limits())
        if not matcher.is_error():
            # The first mask of a large grammar takes as long as building it; copies have it then.
            words = np.zeros(trie.end // 32 + 1, np.uint32)
            matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
        if matcher.is_error():
            raise _refused(grammar, reason_of(matcher.get_error()))
        return BuiltGrammar(matcher, trie)

    @cached_property
    def _trie(self) -> TokenTrie:
        return TokenTrie(self._tokenizer)


@lru_cache(_MAX_KEPT)
def require_readable(grammar: Grammar) -> None:
    """Refuse a grammar that is not one, without a model; up to a second where it is new.

    Raises:
        GrammarError: as said, or it has what llguidance does not serve.
    """
    from llguidance import LLMatcher

    reason = LLMatcher.validate_grammar(_source(grammar), limits=_limits())
    if reason:
        raise _refused(grammar, reason_of(reason))


def _limits() -> LLParserLimits:
    from llguidance import LLParserLimits

    return LLParserLimits(
        step_max_items=_STEP_ITEMS,
        step_lexer_fuel=_STEP_FUEL,
        max_lexer_states=_LEXER_STATES,
        verbose_errors=False,
    )


def _source(grammar: Grammar) -> str:
    """``grammar`` as llguidance takes it."""
    from llguidance import LLMatcher
    from llguidance.gbnf_to_lark import any_to_lark

    text = grammar.text
    try:
        if grammar.kind == GrammarKind.REGEX:
            return str(LLMatcher.grammar_from_regex(text))
        if grammar.kind == GrammarKind.JSON_SCHEMA:
            return _of_schema(json.loads(text))
        if text.lstrip().startswith("{"):
            return text
        return str(LLMatcher.grammar_from_lark(any_to_lark(text)))
    except GrammarError:
        raise
    except Exception as error:  # llguidance's converter has errors of its own
        raise _refused(grammar, reason_of(str(error))) from None


def _of_schema(schema: object) -> str:
    from llguidance import LLMatcher

    if schema is False:
        raise GrammarError("the JSON schema is false, which allows no answer at all")
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise GrammarError(
            f"a JSON schema is an object, and this one is a {type(schema).__name__}",
            'For instance {"type": "object", "properties": {"name": {"type": "string"}}}.',
        )
    return str(LLMatcher.grammar_from_json_schema(spelled(schema)))


def _refused(grammar: Grammar, reason: str) -> GrammarError:
    return GrammarError(f"the {grammar.name} cannot be served: {reason}")
