"""What one request reads, and what a user may give in its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import openvino as ov
from openvino_genai import TokenizedInputs

from ov_kvcrush.errors import PromptError

if TYPE_CHECKING:
    from ov_kvcrush.runtime.sequences.session import Session


# To Python sequences of numbers, to a user something else.
_BYTES = (str, bytes, bytearray, memoryview)


@dataclass(frozen=True)
class Prompt:
    """What one request reads, and where its cache begins and stays.

    Attributes:
        ids: tokens of the whole prompt.
        session: chat whose cache is continued and kept.
        prefix: cached prefix it begins with.
    """

    ids: Sequence[int]
    session: Session | None = None
    prefix: Session | None = None


def require_texts(inputs: object) -> Sequence[str]:
    """``inputs`` as texts: a str is one.

    Raises:
        PromptError: it is something else.
    """
    texts = [inputs] if isinstance(inputs, str) else inputs
    if not (isinstance(texts, Sequence) and texts and all(isinstance(t, str) for t in texts)):
        raise PromptError(
            "inputs is neither a text, texts, a ChatHistory nor token ids",
            "Give a str, a list of str, a ChatHistory, an ov.Tensor or TokenizedInputs.",
        )
    return texts


def require_token_ids(inputs: object) -> list[int]:
    """``inputs`` as token ids: a sequence of whole numbers, of Python or NumPy.

    Raises:
        PromptError: it is something else.
    """
    is_list = isinstance(inputs, (Sequence, np.ndarray)) and not isinstance(inputs, _BYTES)
    if not (is_list and all(map(_is_token_id, cast("Sequence[object]", inputs)))):
        raise PromptError(
            "inputs is neither a text, a ChatHistory nor token ids",
            "Give a str, a ChatHistory or a list of int; each prompt is a call of its own.",
        )
    return [int(token) for token in cast("Sequence[int]", inputs)]


def _is_token_id(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def token_rows(inputs: ov.Tensor | TokenizedInputs) -> list[list[int]]:
    """Token ids of each prompt of a ``[batch, length]`` input, without what its mask leaves out.

    Raises:
        PromptError: another shape.
    """
    ids = inputs if isinstance(inputs, ov.Tensor) else inputs.input_ids
    if len(ids.shape) != 2:
        raise PromptError(
            f"token ids have shape {list(ids.shape)}, not [batch, length]",
            "Give a two-dimensional tensor of int64.",
        )
    if not np.issubdtype(ids.data.dtype, np.integer):
        raise PromptError(
            f"token ids are whole numbers, not {ids.data.dtype}",
            "Give a two-dimensional tensor of int64.",
        )
    rows: list[list[int]] = ids.data.tolist()
    if isinstance(inputs, TokenizedInputs):
        masks = inputs.attention_mask.data.astype(bool)
        rows = [ids.data[n][mask].tolist() for n, mask in enumerate(masks)]
    return rows
