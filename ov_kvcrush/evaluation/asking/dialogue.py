"""One sample's conversation with one cache: what is read next, and what was answered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet

from ov_kvcrush.evaluation.asking.rendering import SamplePrompt, SampleReader
from ov_kvcrush.evaluation.asking.results import Scored
from ov_kvcrush.evaluation.suites.sample import Question

Score = Callable[[str, Question], float]
"""The score of an answer to a question, by the question's metric."""


class Dialogue:
    """A conversation, turn by turn.

    Args:
        reader: of samples.
        prompt: it begins with.
        ends: tokens that end an answer.
        score: of an answer.

    Attributes:
        tokens: all that stands before the next answer.
        answers: so far.
    """

    def __init__(
        self, reader: SampleReader, prompt: SamplePrompt, ends: AbstractSet[int], score: Score
    ) -> None:
        self.tokens = list(prompt.tokens)
        self.answers: list[Scored] = []
        self._reader = reader
        self._sample = prompt.sample
        self._ends = ends
        self._score = score
        self._rendered = prompt.rendered
        self._replies: list[str] = []

    @property
    def question(self) -> Question | None:
        """What is to be answered next; None where all has been."""
        questions = self._sample.questions
        return questions[len(self.answers)] if len(self.answers) < len(questions) else None

    def take(self, written: Sequence[int]) -> None:
        """Take ``written`` as the next answer, with the token that ended it if one did."""
        question = self.question
        if question is None:
            raise RuntimeError("all questions of a dialogue have been answered")
        if written and written[-1] in self._ends:
            written = written[:-1]
        text = str(self._reader.encoder.tokenizer.decode(list(written)))
        self.answers.append(Scored(text, float(self._score(text, question))))
        if self.question is not None:
            self._replies.append(text if question.reply is None else question.reply)
            self.tokens += self._next_tokens(() if question.reply is not None else written)

    def _next_tokens(self, written: Sequence[int]) -> list[int]:
        """The last reply and the next question; the reply as it was ``written`` where it was."""
        encoder = self._reader.encoder
        self._rendered, rest = self._reader.next_turn(self._sample, self._replies, self._rendered)
        # What a model wrote is not always spelled as the tokenizer would spell it.
        spelled = ""
        if written:
            spelled = str(encoder.tokenizer.decode(list(written), skip_special_tokens=False))
        if not (spelled and rest.text.startswith(spelled)):
            return encoder.encode_rest(rest)
        return [*written, *encoder.encode_rest(rest.split(len(spelled))[1])]
