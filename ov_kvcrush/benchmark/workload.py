"""What every side of a benchmark is asked for: prompts of random tokens, and answers to them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Below them are the special tokens of most models.
_FIRST_PLAIN_TOKEN = 10


@dataclass(frozen=True)
class Workload:
    """Requests that arrive together, each with a prompt and an answer of a set length.

    Attributes:
        prompt_tokens: of each prompt.
        answer_tokens: of each answer, greedily and past any end-of-sequence token.
        num_requests: how many arrive together.
        next_turn_tokens: of the question each chat goes on with after its answer; 0 for none.
        shared_tokens: of a document that all prompts begin with; 0 where no two begin alike.
    """

    prompt_tokens: int
    answer_tokens: int
    num_requests: int = 1
    next_turn_tokens: int = 0
    shared_tokens: int = 0

    @property
    def most_tokens(self) -> int:
        """Tokens of a sequence when it is longest."""
        first = self.prompt_tokens + self.answer_tokens
        # The next turn is measured to its first token.
        return first + self.next_turn_tokens + 1 if self.next_turn_tokens else first

    @property
    def title(self) -> str:
        """For people."""
        text = f"{self.prompt_tokens:,} tokens in"
        if self.shared_tokens:
            text += f", the first {self.shared_tokens:,} the same"
        text += f", {self.answer_tokens:,} out"
        if self.num_requests > 1:
            text = f"{self.num_requests} requests at once, {text}"
        if self.next_turn_tokens:
            text += f", then {self.next_turn_tokens:,} more in"
        return text

    def prompts(self, turn: int, vocabulary: int) -> list[list[int]]:
        """Token ids of each prompt in a turn, which begin as those of no other turn.

        Nor as another's of the turn, but for the document that all of them share.
        """
        # Numbered behind the questions, which are numbered behind the prompts.
        document = random_tokens(self.shared_tokens, (turn, 2 * self.num_requests), vocabulary)
        own = self.prompt_tokens - self.shared_tokens
        return [
            [*document, *random_tokens(own, (turn, request), vocabulary)]
            for request in range(self.num_requests)
        ]

    def questions(self, turn: int, vocabulary: int) -> list[list[int]]:
        """Token ids that each chat goes on with."""
        return [
            random_tokens(self.next_turn_tokens, (turn, self.num_requests + request), vocabulary)
            for request in range(self.num_requests)
        ]


def random_tokens(count: int, seed: int | tuple[int, ...], vocabulary: int) -> list[int]:
    """``count`` token ids below ``vocabulary``, the same for the same ``seed``."""
    first = min(_FIRST_PLAIN_TOKEN, vocabulary - 1)
    ids: list[int] = np.random.default_rng(seed).integers(first, vocabulary, count).tolist()
    return ids
