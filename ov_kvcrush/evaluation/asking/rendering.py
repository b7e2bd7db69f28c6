"""A sample as the model reads it: its first prompt, and what each later turn adds to that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ov_kvcrush.errors import ConfigError, OVKVCrushError, PromptError
from ov_kvcrush.evaluation.fidelity.question_place import place_of
from ov_kvcrush.evaluation.suites.sample import Sample
from ov_kvcrush.pipeline.prompt_encoder import PromptEncoder
from ov_kvcrush.pipeline.rendered_text import RenderedText

# What stands for an answer of the model's own where it is not known yet.
_SOME_REPLY = "1"


@dataclass(frozen=True)
class SamplePrompt:
    """A sample, and its first prompt.

    Attributes:
        sample: what is asked.
        tokens: of the first prompt, up to where its answer goes on.
        num_before: of them, before the first question.
        rendered: the text of the first prompt.
        most_tokens: of the conversation with all its answers, at most.
    """

    sample: Sample
    tokens: tuple[int, ...]
    num_before: int
    rendered: RenderedText
    most_tokens: int


@dataclass(frozen=True)
class SampleReader:
    """Turns samples into tokens.

    Attributes:
        encoder: of the model.
    """

    encoder: PromptEncoder

    def read(self, sample: Sample) -> SamplePrompt | None:
        """The first prompt of ``sample``, and how long all of it may become.

        None where that is more than the tokenizer reads at once.

        Raises:
            ConfigError: a text that is continued is to be asked several questions, or none is.
            ModelError: there is no chat template where one is needed.
            OVKVCrushError: the chat template changes what is asked, or what was said before.
            PromptError: it refuses what is asked.
        """
        if not sample.questions or (len(sample.questions) > 1 and not sample.is_chat):
            wanted = "at least one question" if sample.is_chat else "one question"
            raise ConfigError(f"{sample.id}: it has {len(sample.questions)}, and needs {wanted}")
        encoder, question = self.encoder, sample.questions[0].text
        rendered = self._render(sample, ())
        place = place_of(question, sample.context + question, rendered)
        if place is None:
            raise OVKVCrushError(
                f"{sample.id}: the model's chat template changes what is asked, so it cannot be "
                "told where the question begins",
                "Ask a model with another chat template, or leave the sample out.",
            )
        before, behind = rendered.split(place)
        try:
            head, tail = encoder.encode(before), encoder.encode_rest(behind)
        except PromptError:
            return None
        tokens = (*head, *tail)
        most = len(tokens) + self._most_behind(sample, rendered)
        return SamplePrompt(sample, tokens, len(head), rendered, most)

    def next_turn(
        self, sample: Sample, replies: Sequence[str], before: RenderedText
    ) -> tuple[RenderedText, RenderedText]:
        """The conversation up to the question that comes behind ``replies``.

        Args:
            sample: has a question more than there are replies.
            replies: what was said to the questions before it, without the opening.
            before: the conversation up to the last of these replies.

        Returns:
            All of it, and what of it stands behind ``before``.

        Raises:
            OVKVCrushError: the chat template changes what was said before.
        """
        rendered = self._render(sample, replies)
        # A running chat goes on behind what it has read, and so do cut caches.
        if not rendered.marked.startswith(before.marked):
            raise OVKVCrushError(
                f"{sample.id}: the model's chat template changes what was said in earlier turns, "
                "so the next question cannot be asked behind it",
                "Leave samples with several questions out, or ask another model.",
            )
        return rendered, rendered.split(len(before.text))[1]

    def _render(self, sample: Sample, replies: Sequence[str]) -> RenderedText:
        first, *later = sample.questions
        content = sample.context + first.text
        if not sample.is_chat:
            return self.encoder.plain(content + sample.opening)
        messages = [{"role": "user", "content": content}]
        for reply, question in zip(replies, later, strict=False):
            messages += [
                {"role": "assistant", "content": sample.opening + reply},
                {"role": "user", "content": question.text},
            ]
        return self.encoder.render(messages).continued(sample.opening)

    def _most_behind(self, sample: Sample, rendered: RenderedText) -> int:
        """Tokens behind the first prompt, at most."""
        most, replies = 0, list[str]()
        for question in sample.questions[:-1]:
            replies.append(_SOME_REPLY if question.reply is None else question.reply)
            rendered, rest = self.next_turn(sample, replies, rendered)
            most += len(self.encoder.encode_rest(rest))
            most += question.most_tokens if question.reply is None else 0
        return most + max(question.most_tokens for question in sample.questions)
