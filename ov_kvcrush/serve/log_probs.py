"""Log probabilities of an answer's tokens, in the forms of chats and of completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ov_kvcrush.runtime.generation.progress import TopTokens
from ov_kvcrush.serve.token_texts import TokenTexts

# JSON has no infinity; OpenAI's own number for what is out of the question.
_LOWEST = -9999.0


@dataclass(frozen=True)
class ScoredTokens:
    """Tokens of an answer with what was likely in their place.

    Attributes:
        token_ids: of the answer, or of a piece.
        log_probs: natural log probability of each.
        top: in place of each the likeliest ones, the likeliest first.
    """

    token_ids: Sequence[int]
    log_probs: Sequence[float]
    top: Sequence[TopTokens]


def chat_log_probs(scored: ScoredTokens, num_top: int, texts: TokenTexts) -> dict[str, Any]:
    """``logprobs`` of a chat's choice, or of a chunk.

    Args:
        scored: its tokens.
        num_top: alternatives to tell of each.
        texts: of the vocabulary.
    """

    def entry(token: int, log_prob: float) -> dict[str, Any]:
        text = texts.of(token)
        return {"token": text.text, "logprob": _finite(log_prob), "bytes": list(text.data)}

    rows = zip(scored.token_ids, scored.log_probs, scored.top, strict=True)
    content = [
        {**entry(token, log_prob), "top_logprobs": [entry(*one) for one in top[:num_top]]}
        for token, log_prob, top in rows
    ]
    return {"content": content, "refusal": None}


def completion_log_probs(
    scored: ScoredTokens, num_top: int, texts: TokenTexts, offset: int = 0
) -> dict[str, Any]:
    """``logprobs`` of a completion's choice, or of a chunk.

    Args:
        scored: its tokens.
        num_top: alternatives to tell of each, beside the token itself.
        texts: of the vocabulary.
        offset: characters of the answer before them.
    """
    body: dict[str, list[Any]] = {
        "tokens": [],
        "token_logprobs": [],
        "top_logprobs": [],
        "text_offset": [],
    }
    for token, log_prob, top in zip(scored.token_ids, scored.log_probs, scored.top, strict=True):
        text = texts.of(token)
        likely = {texts.of(one).text: _finite(score) for one, score in top[:num_top]}
        body["tokens"].append(text.text)
        body["token_logprobs"].append(_finite(log_prob))
        body["top_logprobs"].append({**likely, text.text: _finite(log_prob)})
        body["text_offset"].append(offset)
        offset += num_characters([token], texts)
    return body


def num_characters(token_ids: Sequence[int], texts: TokenTexts) -> int:
    """Characters that begin in tokens; a byte that goes on with one is 10xxxxxx (RFC 3629)."""
    return sum(byte & 0xC0 != 0x80 for token in token_ids for byte in texts.of(token).data)


def _finite(log_prob: float) -> float:
    return max(float(log_prob), _LOWEST)
