"""What a suite asks: a context, the questions about it, and what is right."""

from __future__ import annotations

from dataclasses import dataclass

UNSCORED = "unscored"
"""The metric of a question whose answer does not count."""


@dataclass(frozen=True)
class Question:
    """One turn of a conversation.

    Attributes:
        text: what is asked. The first one of a sample follows its context in the same message.
        answers: right ones; the one that an answer comes nearest to counts.
        metric: how an answer is scored, a name in ``METRICS``, or ``UNSCORED``.
        most_tokens: of an answer.
        reply: what the conversation goes on with in place of the model's own answer; None goes on
            with that.
        classes: labels there are, where the metric wants to know.
        kind: for tables, such as ``no literal match``; may be empty.
    """

    text: str
    answers: tuple[str, ...]
    metric: str
    most_tokens: int
    reply: str | None = None
    classes: tuple[str, ...] = ()
    kind: str = ""

    @property
    def is_scored(self) -> bool:
        """Whether its answer counts."""
        return self.metric != UNSCORED


@dataclass(frozen=True)
class Sample:
    """One conversation.

    Attributes:
        id: of this sample alone in its suite.
        task: name of its kind.
        context: what is asked about, with whatever is said before it; a cache may be cut behind it.
        questions: at least one.
        is_chat: it goes through the model's chat template; else it is a text to be continued, and
            has one question.
        opening: words that each answer is begun with; the model goes on from them.
    """

    id: str
    task: str
    context: str
    questions: tuple[Question, ...]
    is_chat: bool = True
    opening: str = ""
