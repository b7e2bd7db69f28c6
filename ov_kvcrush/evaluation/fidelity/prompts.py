"""From texts to token ids: where the question begins in them, and what is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ov_kvcrush.errors import ConfigError, OVKVCrushError, PromptError
from ov_kvcrush.evaluation.dataset import half_of
from ov_kvcrush.evaluation.fidelity.question_place import place_of
from ov_kvcrush.evaluation.fidelity.texts import Text
from ov_kvcrush.evaluation.pieces import in_pieces
from ov_kvcrush.pipeline.prompt_encoder import PromptEncoder

# Of a text that is to be read in passages, unless its sizes are asked for.
_PASSAGE_TOKENS = 4096
# The end of a passage, which counts as what is not known when the cache is cut before.
_TAIL_TOKENS = 128


@dataclass(frozen=True)
class Prompt:
    """A text as the model reads it.

    Attributes:
        id: of this prompt alone.
        task: name of its kind.
        tokens: all of it.
        num_before: tokens before the question.
        gold: the right answer's tokens; empty where none is known.
        most_tokens: of an answer.
    """

    id: str
    task: str
    tokens: tuple[int, ...]
    num_before: int
    gold: tuple[int, ...]
    most_tokens: int


@dataclass(frozen=True)
class Prompter:
    """Makes prompts of texts.

    Attributes:
        encoder: of the model.
        num_tokens: of an answer, at most; of right answers no more count.
        context: tokens the model reads; 0 where they are not bounded.
        sizes: least and most tokens of a prompt; None takes all.
        split: half of the texts, as :func:`choose_examples` has it.
    """

    encoder: PromptEncoder
    num_tokens: int
    context: int = 0
    sizes: tuple[int, int] | None = None
    split: str = "all"

    def choose(
        self,
        texts: Iterable[Text],
        limit: int | None,
        is_too_short: Callable[[int], bool],
        note: Callable[[str], None],
    ) -> list[Prompt]:
        """The first ``limit`` prompts that can be used, in the order of ``texts``.

        Args:
            texts: in the order in which they are wanted.
            limit: None takes all.
            is_too_short: of so many tokens some budget would leave nothing to choose.
            note: is told how many are left out, and why.

        Raises:
            ConfigError: none can be used.
            OVKVCrushError: one cannot be read as the model's chat template has it.
        """
        chosen: list[Prompt] = []
        left_out = {"longer than the model's context": 0, "too short for the budgets": 0}
        too_long, too_short = left_out
        for prompt in self._prompts(texts):
            if prompt is None:
                left_out[too_long] += 1
                continue
            size = len(prompt.tokens)
            low, high = self.sizes or (0, size)
            if not low <= size <= high:
                continue
            if self.context and size + self.num_tokens > self.context:
                left_out[too_long] += 1
            elif is_too_short(size):
                left_out[too_short] += 1
            else:
                chosen.append(prompt)
            if len(chosen) == limit:
                break
        reasons = [f"{count} {reason}" for reason, count in left_out.items() if count]
        if not chosen:
            raise ConfigError(
                f"no text is left to measure on{': ' if reasons else ''}{', '.join(reasons)}",
                "Widen --tokens, or keep more.",
            )
        if reasons:
            note(f"left out: {', '.join(reasons)}")
        return chosen

    def _prompts(self, texts: Iterable[Text]) -> Iterator[Prompt | None]:
        """None for one that is more than the tokenizer reads at once."""
        for text in texts:
            if text.is_passage:
                yield from self._passages(text)
            else:
                yield self._prompt(text)

    def _prompt(self, text: Text) -> Prompt | None:
        encoder = self.encoder
        if isinstance(text.content, str):
            rendered = encoder.plain(text.content)
            place = place_of(text.question, text.content, rendered) if text.question else None
        else:
            rendered = encoder.render(text.content)
            place = place_of(text.question, str(text.content[-1]["content"]), rendered)
        if place is None:
            raise OVKVCrushError(
                f"{text.id}: the model's chat template changes what is asked, so it cannot be told "
                "where the question begins",
                "Give the text without a chat template (--chat-template never).",
            )
        before, behind = rendered.split(place)
        try:
            head, tail = encoder.encode(before), encoder.encode_rest(behind)
        except PromptError:
            return None
        most = min(self.num_tokens, text.most_tokens or self.num_tokens)
        gold: list[int] = []
        if text.gold.strip():
            space = "" if rendered.text[-1:].isspace() else " "
            gold = encoder.encode_rest(encoder.plain(f"{space}{text.gold.strip()}"))[:most]
        tokens = (*head, *tail)
        return Prompt(text.id, text.task, tokens, len(head), tuple(gold), most)

    def _passages(self, text: Text) -> Iterator[Prompt]:
        """``text`` in passages; what follows each in it is its right answer."""
        encoder, plain = self.encoder, self.encoder.plain
        first, *rest = in_pieces(str(text.content))
        whole = encoder.encode(plain(first))
        for piece in rest:
            whole += encoder.encode_rest(plain(piece))
        gold = tuple(encoder.encode_rest(plain(f" {text.gold}"))) if text.gold else ()
        size = self.sizes[1] if self.sizes else _PASSAGE_TOKENS
        if self.context:
            size = min(size, self.context - self.num_tokens)
        if gold or len(whole) <= size:
            # Too short to be told what follows, unless its own end is that.
            if not gold:
                whole, gold = whole[: -self.num_tokens], tuple(whole[-self.num_tokens :])
            yield self._passage(text, text.id, tuple(whole), gold[: self.num_tokens])
            return
        # Every passage begins as a text does.
        lead = whole[: len(encoder.encode(plain("a"))) - len(encoder.encode_rest(plain("a")))]
        body = whole[len(lead) :]
        step = size - len(lead) + self.num_tokens
        for number, begin in enumerate(range(0, len(body) - step + 1, step), start=1):
            name = f"{text.id} {number}"
            if self.split in ("all", half_of(name)):
                passage = body[begin : begin + step]
                tokens = (*lead, *passage[: -self.num_tokens])
                yield self._passage(text, name, tokens, tuple(passage[-self.num_tokens :]))

    def _passage(
        self, text: Text, name: str, tokens: tuple[int, ...], gold: tuple[int, ...]
    ) -> Prompt:
        num_before = max(1, len(tokens) - _TAIL_TOKENS)
        return Prompt(name, text.task, tokens, num_before, gold, self.num_tokens)
