"""What came out: a sample with each cache, its answers and their scores; JSON both ways."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Scored:
    """One answer.

    Attributes:
        text: as the model wrote it, without the opening.
        score: of the question's metric.
    """

    text: str
    score: float


@dataclass(frozen=True)
class Cell:
    """One sample with one cache in one setting.

    Attributes:
        setting: when the cache was cut, of ``SETTINGS``.
        configuration: name of the cache's configuration.
        budget: tokens that may stay of the first prompt; 0 is all.
        kept: tokens that a KV head held on average when all cuts had been made.
        kv_bytes: of the cache then; of openvino_genai's, behind the first answer.
        answers: by turn.
        kept_by_head: tokens that each KV head held then, by layer; empty where nothing was cut, or
            the engine does not tell.
    """

    setting: str
    configuration: str
    budget: int
    kept: float
    kv_bytes: int
    answers: tuple[Scored, ...]
    kept_by_head: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> Cell:
        """Of what ``asdict`` made, also through JSON.

        Raises:
            KeyError, TypeError: it is something else.
        """
        answers = tuple(Scored(**answer) for answer in body["answers"])
        kept_by_head = tuple(map(tuple, body["kept_by_head"]))
        return cls(**{**body, "answers": answers, "kept_by_head": kept_by_head})


@dataclass(frozen=True)
class SampleResult:
    """One sample with every cache in every setting.

    Attributes:
        id: of the sample.
        task: of the sample.
        num_tokens: of the first prompt.
        cells: by configuration, and by setting within one.
    """

    id: str
    task: str
    num_tokens: int
    cells: tuple[Cell, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> SampleResult:
        """Of what :meth:`to_dict` made, also through JSON.

        Raises:
            KeyError, TypeError: it is something else.
        """
        return cls(**{**body, "cells": tuple(map(Cell.from_dict, body["cells"]))})
