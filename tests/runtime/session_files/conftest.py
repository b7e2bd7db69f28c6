"""An engine that cuts often, and a session it has written."""

from __future__ import annotations

from pathlib import Path

import pytest

from ov_kvcrush.runtime.paged.engine import PagedEngine
from ov_kvcrush.runtime.sequences.session import Session
from tests.support.engines import bare_engine, prompt_of
from tests.support.session_process import ABOUT, CUT_OFTEN, ask


@pytest.fixture(scope="module", params=["auto", "off"], ids=["heads apart", "heads together"])
def engine(request: pytest.FixtureRequest, needle_int8_dir: Path) -> PagedEngine:
    engine = bare_engine(needle_int8_dir, **CUT_OFTEN, head_budgets=request.param)
    model = engine.model
    assert (len(model.layers) > model.num_model_layers) == (request.param == "auto")
    return engine


@pytest.fixture
def saved(engine: PagedEngine, tmp_path: Path) -> Path:
    """A chat of one turn."""
    session = Session()
    ask(engine, session, prompt_of(400))
    path = tmp_path / "chat.safetensors"
    engine.save_session(session, path, ABOUT)
    engine.close_session(session)
    return path
