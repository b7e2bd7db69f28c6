"""Whatever fails in the middle of whatever is done: no page, no chat and no request is lost.

Each function between two steps of bookkeeping fails once, at several of its calls. Afterwards every
page is free or owned, what was held is given back, and the same requests are answered as if nothing
had been.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ov_kvcrush.runtime.engine_metrics import EndedSequences
from ov_kvcrush.runtime.eviction.budgets import CacheBudgets
from ov_kvcrush.runtime.eviction.compressor import Compressor
from ov_kvcrush.runtime.eviction.cut_plan import CutPlanner
from ov_kvcrush.runtime.eviction.peaks import PeakMeter
from ov_kvcrush.runtime.generation.draft_policy import DraftRecord
from ov_kvcrush.runtime.generation.request import Request
from ov_kvcrush.runtime.generation.sampler import Sampler
from ov_kvcrush.runtime.generation.stopping import StopChecker
from ov_kvcrush.runtime.model.paged_model import PagedModel
from ov_kvcrush.runtime.paged import drafting
from ov_kvcrush.runtime.paged import engine as paged_engine
from ov_kvcrush.runtime.paged import running as paged_running
from ov_kvcrush.runtime.paged.engine import PagedEngine
from ov_kvcrush.runtime.pages.memory import CacheMemory
from ov_kvcrush.runtime.pages.pool import PagePool
from ov_kvcrush.runtime.pages.taking_back import OpenPage
from ov_kvcrush.runtime.scheduling.admission import Admission
from ov_kvcrush.runtime.scheduling.intake import Intake
from ov_kvcrush.runtime.scheduling.scheduler import Scheduler
from ov_kvcrush.runtime.sequences.kv_cache import KVCache
from ov_kvcrush.runtime.sequences.layer_cache import LayerCache
from ov_kvcrush.runtime.sequences.ledger import Ledger
from ov_kvcrush.runtime.sequences.prefixes import Prefixes
from ov_kvcrush.runtime.sequences.query_window import QueryWindow
from ov_kvcrush.runtime.sequences.sequence import Sequence
from ov_kvcrush.runtime.sequences.session import Session
from ov_kvcrush.runtime.sequences.tail import Tail
from ov_kvcrush.runtime.session_files import held_session
from ov_kvcrush.runtime.session_files.sequence_state import SequenceState
from ov_kvcrush.runtime.session_files.stored_session import StoredSession
from tests.support.drafts import guesses
from tests.support.engines import EVICTING, EXACT, F32, engine_of, greedy, prompt_of
from tests.support.failures import InjectedError, counted
from tests.support.half_sliding import export_half_sliding

# Where a function is looked up, and its name.
PLACES: dict[str, tuple[Any, str]] = {
    "beginning: a sequence is made": (Intake, "new_sequence"),
    "beginning: a chat's cache is taken": (KVCache, "unpark"),
    "beginning: a chat's cache is taken back": (Sequence, "rewind_to"),
    "beginning: cuts are planned": (CutPlanner, "plan_prompt"),
    "beginning: the prompt is fitted to the pool": (Admission, "could_ever"),
    "beginning: it goes on from a prefix": (Prefixes, "begin_with"),
    "beginning: pages are shared": (PagePool, "share"),
    "beginning: what is on them is copied": (LayerCache, "hold"),
    "beginning: the queries are copied": (QueryWindow, "copy_from"),
    "beginning: a prefix is shortened": (Sequence, "rewind_cache_to"),
    "beginning: it is queued": (Scheduler, "add"),
    "scheduling: who fits": (Admission, "admits"),
    "scheduling: is a prefix being read": (Prefixes, "is_coming"),
    "scheduling: a prefix is looked for": (Prefixes, "begin"),
    "scheduling: pages are given": (KVCache, "extend"),
    "scheduling: a page is taken": (PagePool, "allocate"),
    "scheduling: a shared page is copied": (CacheMemory, "copy_page"),
    "step: the batch is made": (paged_engine, "build_batch"),
    "step: the inference": (PagedModel, "forward"),
    "step: the tokens are noted": (Sequence, "append"),
    "step: all layers take the tokens": (Tail, "push"),
    "step: the layers write them out": (Sequence, "settle"),
    "step: a layer writes them out": (LayerCache, "_write"),
    "step: pages are put on a table": (LayerCache, "add_pages"),
    "step: tables get room for more": (Ledger, "_widen"),
    "step: attention is accumulated": (Compressor, "_accumulate"),
    "step: the queries are kept": (QueryWindow, "push"),
    "step: a token is sampled": (Sampler, "sample"),
    "step: it is looked for its end": (StopChecker, "push"),
    "step: what was read is kept for others": (Prefixes, "keep_uncut"),
    "step: a prompt is kept for others": (Prefixes, "keep_prompt"),
    "step: what a cut left is kept for others": (Prefixes, "keep_cut"),
    "step: a return sequence is forked": (KVCache, "fork"),
    "drafts: they are shared out": (drafting, "share_out"),
    "drafts: pages are given": (KVCache, "extend_freely"),
    "drafts: what a page holds is kept": (OpenPage, "__init__"),
    "drafts: wrong ones are taken back": (OpenPage, "take_back"),
    "drafts: what came true is noted": (DraftRecord, "note"),
    "cut: is it due": (CutPlanner, "due"),
    "cut: pages leave a window": (LayerCache, "drop_front_pages"),
    "cut: attention is measured": (Compressor, "_attention"),
    "cut: the budget is divided": (CacheBudgets, "divide"),
    "cut: tokens are chosen": (Compressor, "_choose"),
    "cut: tokens are moved": (Compressor, "_move"),
    "cut: a layer keeps them": (LayerCache, "keep"),
    "cut: pages behind are given back": (KVCache, "trim"),
    "again: pages are lent": (KVCache, "lend"),
    "again: its tokens are counted": (Sequence, "bare_twin"),
    "again: a layer takes what it sees": (LayerCache, "append"),
    "again: what it looks at": (PeakMeter, "measure"),
    "again: a layer takes its scores": (LayerCache, "score_newest"),
    "end: pages are off the table": (LayerCache, "surplus_pages"),
    "end: what a stop string cut is taken back": (paged_running, "_take_back"),
    "end: its costs are summed up": (EndedSequences, "add"),
    "save: the state is checked": (SequenceState, "check"),
    "save: the file is written": (held_session, "write_tensors"),
    "load: the state is restored": (SequenceState, "restore"),
    "load: the pages are filled": (StoredSession, "fill"),
}

DOCUMENT, SYSTEM, OTHER_DOCUMENT = prompt_of(150, 1), prompt_of(70, 2), prompt_of(250, 10)
CALLS_THAT_FAIL = 5
# Attention is measured at a cut, through a window of queries, or accumulated from the beginning.
NOT_CALLED = {
    "snapkv": {"step: attention is accumulated"},
    "h2o": {
        "beginning: the queries are copied",
        "step: the queries are kept",
        "cut: attention is measured",
        "drafts: they are shared out",
        "drafts: pages are given",
        "drafts: what a page holds is kept",
        "drafts: wrong ones are taken back",
        "drafts: what came true is noted",
    },
}


@pytest.fixture(scope="module")
def folder() -> Path:
    """A model with two layers that have a budget and two that have a window."""
    return export_half_sliding()


@pytest.fixture(scope="module", params=["snapkv", "h2o"])
def engine(folder: Path, request: pytest.FixtureRequest) -> Iterator[PagedEngine]:
    made = engine_of(
        folder,
        properties=F32,
        max_num_batched_tokens=96,
        prompt_lookup=4,
        pool_size=2048,
        importance=request.param,
        prefill_budget=128,
        **EXACT,
        **EVICTING,
    )
    # In every step, whatever it takes, and none of it right.
    with guesses([], share_true=0.0):
        yield made


@dataclass
class Work:
    """Everything that an engine does, once.

    A chat, a document, another one that is read twice, two answers to one prompt, a file.

    Attributes:
        sessions: that were made.
        answers: tokens, in the order they were asked for.
    """

    engine: PagedEngine
    path: Path
    sessions: list[Session] = field(default_factory=list)
    answers: list[list[int]] = field(default_factory=list)

    def do(self) -> None:
        """Do it."""
        chat = self.session()
        first = SYSTEM + prompt_of(60, 3)
        self.ask([(first, chat, None)], 20)
        self.ask([(SYSTEM + prompt_of(90, 4), None, None)], 4)
        self.ask([(first + self.answers[0] + prompt_of(30, 5), chat, None)], 6)
        document = self.session(pinned=True, is_prefix=True)
        self.ask([(DOCUMENT, document, None)], 1)
        twice = self.session(pinned=True, is_prefix=True, thorough=True)
        self.ask([(OTHER_DOCUMENT, twice, None), (prompt_of(40, 11), None, None)], 1)
        self.ask([(OTHER_DOCUMENT + prompt_of(20, 12), None, twice)], 4)
        questions = [(DOCUMENT + prompt_of(20, seed), None, document) for seed in (6, 7)]
        self.ask([*questions, (prompt_of(220, 8), None, None)], 24, num_return_sequences=2)
        self.path.unlink(missing_ok=True)
        with closing(self.engine.hold_session(chat)) as held:
            self.ask([(chat.token_ids + prompt_of(10, 9), chat, None)], 4)
            held.write(self.path, {"kind": "chat"})
        self.engine.save_session(chat, self.path, {"kind": "chat"})
        loaded = self.session()
        with self.engine.open_session(self.path) as stored:
            self.engine.load_session(stored, loaded)
        self.ask([(loaded.token_ids + prompt_of(10, 9), loaded, None)], 4)

    def session(self, **settings: Any) -> Session:
        self.sessions.append(Session(**settings))
        return self.sessions[-1]

    def ask(
        self,
        prompts: list[tuple[list[int], Session | None, Session | None]],
        count: int,
        **settings: Any,
    ) -> None:
        """Answer ``prompts`` together; what has not ended is cancelled, as pipelines do."""
        requests: list[Request] = []
        config = greedy(count, **settings)
        try:
            for prompt, session, prefix in prompts:
                requests.append(self.engine.add_request(prompt, config, session, prefix))
            while not all(request.finished for request in requests):
                self.engine.step()
                self.engine.check_integrity()
        finally:
            for request in requests:
                if not request.finished:
                    self.engine.cancel(request)
        for request in requests:
            if request.error is not None:
                raise request.error
        self.answers += [one.tokens for request in requests for one in request.generations]

    def let_go(self) -> None:
        """Free all that is held; nothing may be left of it."""
        assert not any(session.busy for session in self.sessions)
        assert not self.engine.has_unfinished()
        self.engine.check_integrity()
        for session in self.sessions:
            self.engine.close_session(session)
        self.engine.prefixes.clear()
        self.engine.check_integrity()
        assert self.engine.cache.used_bytes == 0


@pytest.fixture(scope="module")
def wanted(engine: PagedEngine, tmp_path_factory: pytest.TempPathFactory) -> list[list[int]]:
    work = Work(engine, tmp_path_factory.mktemp("wanted") / "chat.safetensors")
    work.do()
    work.let_go()
    return work.answers


@pytest.mark.parametrize("place", [(Sampler, "sample"), (StopChecker, "push")])
@pytest.mark.parametrize("number", [1, 2, 5])
def test_what_fails_for_one_request_ends_that_one_only(
    folder: Path, place: tuple[Any, str], number: int
) -> None:
    engine = engine_of(folder, properties=F32, pool_size=2048, **EXACT)
    prompts, sessions = [prompt_of(40, seed) for seed in range(2)], [Session(), Session()]

    def ask() -> list[Request]:
        requests = [
            engine.add_request(prompt, greedy(8), session)
            for prompt, session in zip(prompts, sessions, strict=True)
        ]
        while engine.has_unfinished():
            engine.step()
        engine.check_integrity()
        return requests

    wanted = [one.generations[0].tokens for one in ask()]
    with counted(place, fails_at=number):
        requests = ask()
    failed = [isinstance(request.error, InjectedError) for request in requests]
    assert sum(failed) == 1
    assert [one.finished for one in requests] == [True, True]
    assert requests[failed.index(False)].generations[0].tokens == wanted[failed.index(False)]
    assert not any(session.busy for session in sessions)
    assert [one.generations[0].tokens for one in ask()] == wanted


@pytest.mark.parametrize("place", PLACES)
def test_nothing_is_lost_when_something_fails(
    engine: PagedEngine, wanted: list[list[int]], place: str, tmp_path: Path
) -> None:
    def work() -> Work:
        return Work(engine, tmp_path / "chat.safetensors")

    with counted(PLACES[place]) as calls:
        undisturbed = work()
        undisturbed.do()
    undisturbed.let_go()
    assert undisturbed.answers == wanted
    if not calls[0]:
        assert place in NOT_CALLED[engine.config.importance]
        return
    step = max(1, (calls[0] - 1) // (CALLS_THAT_FAIL - 1))
    for number in range(1, calls[0] + 1, step):
        disturbed = work()
        with counted(PLACES[place], fails_at=number), pytest.raises(InjectedError):
            disturbed.do()
        disturbed.let_go()
    again = work()
    again.do()
    again.let_go()
    assert again.answers == wanted
