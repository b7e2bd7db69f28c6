"""A thousand random operations of many users: no page is ever lost, and the ceiling holds."""

from __future__ import annotations

import random
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from openvino_genai import GenerationConfig

from ov_kvcrush.errors import PromptError, SessionError
from ov_kvcrush.runtime.generation.request import Request
from ov_kvcrush.runtime.paged.engine import PagedEngine
from ov_kvcrush.runtime.pages.cache_layer import each_head
from ov_kvcrush.runtime.sequences.session import Session
from tests.support.engines import EVICTING, assert_nothing_held, engine_of, greedy
from tests.support.head_groups import divided, mixed

NUM_OPERATIONS = 1000
CASES: dict[str, dict[str, Any]] = {
    "u8/u8, everything kept": {},
    "u4/u4, cut while reading": {**EVICTING, "prefill_budget": 128},
    "u8/u4, whole pages": {
        "max_cache_size": 128, "start_size": 32, "recent_size": 32, "granularity": "page",
        "decode_slack": 32,
    },
    "u8/u8, all attention summed": {**EVICTING, "importance": "h2o"},
    "u8/u8, heads of a layer together": {**EVICTING, "head_budgets": "off"},
    "u8/u4, each head alone": {**EVICTING, "prefill_budget": 128},
    "u4/u4, mixed groups, all attention summed": {**EVICTING, "importance": "h2o"},
}  # fmt: skip
DIVIDED = {"u8/u4, each head alone": each_head, "u4/u4, mixed groups, all attention summed": mixed}


class Users:
    """Random users of one engine, and what they hold."""

    def __init__(self, engine: PagedEngine, seed: int, folder: Path) -> None:
        self.engine = engine
        self.folder = folder
        self.saved: list[Path] = []
        self.num_loaded = 0
        self.draw = random.Random(seed)
        self.running: list[Request] = []
        self.finished: list[Request] = []
        self.chats: list[tuple[Session, list[int]]] = []
        self.prefixes: list[tuple[Session, list[int]]] = []
        # Some begin alike, in full or in part.
        self.documents = [self.tokens(self.draw.randrange(40, 400)) for _ in range(4)]

    def tokens(self, count: int) -> list[int]:
        return [self.draw.randrange(8, 5000) for _ in range(count)]

    def act(self) -> None:
        kinds = {
            self.step: 12, self.arrive: 4, self.chat: 3, self.cancel: 1, self.preempt: 1,
            self.share: 2, self.cache_prefix: 1, self.close_chat: 1, self.close_prefix: 1,
            self.save: 1, self.load: 1,
        }  # fmt: skip
        self.draw.choices(list(kinds), list(kinds.values()))[0]()

    def step(self) -> None:
        self.engine.step()
        for request in [r for r in self.running if r.finished]:
            self.running.remove(request)
            self.finished.append(request)

    def add(
        self, prompt: list[int], session: Session | None = None, prefix: Session | None = None
    ) -> None:
        count = self.draw.randrange(1, 40)
        sequences = 1 if session or self.draw.random() < 0.8 else 3
        config = greedy(count, do_sample=sequences > 1, num_return_sequences=sequences)
        try:
            self.running.append(self.engine.add_request(prompt, config, session, prefix))
        except PromptError as error:
            if "does not fit" not in str(error):
                raise

    def arrive(self) -> None:
        document = self.draw.choice(self.documents)
        start = document[: self.draw.randrange(len(document))]
        self.add([*start, *self.tokens(self.draw.randrange(1, 120))])

    def chat(self) -> None:
        idle = [number for number, (session, _) in enumerate(self.chats) if not session.busy]
        if not idle or self.draw.random() < 0.3:
            self.chats.append((Session(), list(self.draw.choice(self.documents))))
            idle = [len(self.chats) - 1]
        session, history = self.chats[self.draw.choice(idle)]
        if session.token_ids and self.draw.random() < 0.8:
            history[:] = session.token_ids
        history += self.tokens(self.draw.randrange(1, 60))
        self.add(list(history), session)

    def share(self) -> None:
        ready = [(s, tokens) for s, tokens in self.prefixes if s.sequence is not None]
        if ready:
            session, tokens = self.draw.choice(ready)
            self.add([*tokens, *self.tokens(self.draw.randrange(1, 60))], prefix=session)

    def cache_prefix(self) -> None:
        if len(self.prefixes) < 3:
            session, document = (
                Session(pinned=True, is_prefix=True),
                self.draw.choice(self.documents),
            )
            config = GenerationConfig(max_new_tokens=1)
            try:
                self.running.append(self.engine.add_request(document, config, session))
            except PromptError:
                return
            self.prefixes.append((session, document))

    def save(self) -> None:
        holding = [s for s, _ in [*self.chats, *self.prefixes] if not s.busy and s.sequence]
        if holding:
            session = self.draw.choice(holding)
            path = self.folder / f"{self.draw.randrange(4)}.safetensors"
            self.engine.save_session(session, path, {"prefix": session.is_prefix})
            self.saved.append(path)

    def load(self) -> None:
        if not self.saved:
            return
        with self.engine.open_session(self.draw.choice(self.saved)) as stored:
            is_prefix = stored.about["prefix"]
            session = Session(pinned=is_prefix, is_prefix=is_prefix)
            try:
                self.engine.load_session(stored, session)
            except SessionError as error:
                if "has no room" not in str(error):
                    raise
                return
            self.num_loaded += 1
            which = self.prefixes if is_prefix else self.chats
            which.append((session, stored.token_ids))

    def cancel(self) -> None:
        if self.running:
            request = self.running.pop(self.draw.randrange(len(self.running)))
            self.engine.cancel(request)
            if request.session is not None and request.session.is_prefix:
                # Broken off, it holds less than its text.
                self.forget(self.prefixes, request.session)

    def preempt(self) -> None:
        sequences = [g.sequence for r in self.running for g in r.generations if g.sequence]
        if holding := [s for s in sequences if s.num_cached]:
            self.engine.preempt(self.draw.choice(holding))

    def close_chat(self) -> None:
        if idle := [session for session, _ in self.chats if not session.busy]:
            self.forget(self.chats, self.draw.choice(idle))

    def close_prefix(self) -> None:
        if idle := [session for session, _ in self.prefixes if not session.busy]:
            self.forget(self.prefixes, self.draw.choice(idle))

    def forget(self, which: list[tuple[Session, list[int]]], session: Session) -> None:
        self.engine.close_session(session)
        which[:] = [one for one in which if one[0] is not session]


@pytest.mark.parametrize("case", CASES)
def test_random_operations_lose_no_page(four_layers_dir: Path, tmp_path: Path, case: str) -> None:
    key, value = case.partition(",")[0].split("/")
    with divided(DIVIDED[case]) if case in DIVIDED else nullcontext():
        engine = engine_of(
            four_layers_dir, max_num_batched_tokens=128, max_num_seqs=6, pool_size=1024,
            key_cache_precision=key, value_cache_precision=value, **CASES[case],
        )  # fmt: skip
    users = Users(engine, len(case), tmp_path)
    for _ in range(NUM_OPERATIONS):
        users.act()
        engine.check_integrity()
        assert engine.cache.used_bytes <= engine.cache.max_bytes
    for request in users.running:
        engine.cancel(request)
    for session, _ in [*users.chats, *users.prefixes]:
        engine.close_session(session)
    assert_nothing_held(engine)
    assert not engine.has_unfinished()
    # It was no idle run.
    assert len(users.finished) > 30
    assert engine.prefixes.num_hits > 10
    preemptions = [g.metrics.num_preemptions for r in users.finished for g in r.generations]
    assert sum(preemptions) > 3
    assert users.num_loaded > 3
