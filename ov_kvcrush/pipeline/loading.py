"""Chats and cached prefixes from session files: proved, and put into a model's cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ov_kvcrush.errors import SessionError
from ov_kvcrush.pipeline.cached_prefix import CachedPrefix
from ov_kvcrush.pipeline.chat import Chat
from ov_kvcrush.pipeline.saving import CHAT, real_path, require_kind, require_read
from ov_kvcrush.runtime.session_files.stored_session import StoredSession

if TYPE_CHECKING:
    from ov_kvcrush.pipeline.loaded_model import LoadedModel
    from ov_kvcrush.runtime.interface import Engine


def load(
    model: LoadedModel,
    path: Path,
    owner: str = "",
    at_rest: Callable[[Callable[[Engine], None]], None] | None = None,
) -> Chat | CachedPrefix:
    """Load what is at ``path``. See :meth:`LLMPipeline.load_session`.

    Args:
        model: to go on with.
        path: of the file.
        owner: whose it is then.
        at_rest: calls what it is given with the engine at rest; None where it is at rest anyway.
    """
    with model.engine.open_session(path) as stored:
        what: Chat | CachedPrefix
        if require_kind(stored.about, path) == CHAT:
            what = _read_chat(model, stored)
        else:
            what = _read_prefix(model, stored, path)
        what.session.owner = owner

        def take_over(engine: Engine) -> None:
            engine.load_session(stored, what.session)

        if at_rest is None:
            take_over(model.engine)
        else:
            at_rest(take_over)
        if isinstance(what, Chat):
            what.files[real_path(path)] = stored.digest
    return what


def require_usable(engine: Engine, path: Path) -> str:
    """Prove that :func:`load` could go on from the file at ``path``, given room; in any thread.

    Returns:
        ``chat`` or ``prefix``.

    Raises:
        SessionError: it is damaged, or of another model, precision or head budgets.
    """
    with engine.open_session(path) as stored:
        kind = require_kind(stored.about, path)
        if stored.lost:
            raise SessionError(
                f"the cache in {path} cannot be gone on from: {stored.lost}",
                "Load the model with the head budgets and KV plan of then.",
            )
        return kind


def _read_chat(model: LoadedModel, stored: StoredSession) -> Chat:
    chat = Chat(model)
    chat.replace_messages(stored.about["messages"])
    return chat


def _read_prefix(model: LoadedModel, stored: StoredSession, path: Path) -> CachedPrefix:
    if stored.lost:
        raise SessionError(
            f"the cache in {path} cannot be gone on from: {stored.lost}",
            "Load the model with the head budgets and KV plan of then, or crush the text again.",
        )
    state = require_read(stored.state, path)
    text, system_message = (stored.about[name] for name in ("text", "system_message"))
    encoder, close_session = model.reader.encoder, model.close_session
    prefix = CachedPrefix(
        encoder, close_session, text, system_message, stored.token_ids, state.is_thorough
    )
    if encoder.encode(prefix.beginning) != prefix.token_ids:
        raise SessionError(
            f"{path} was saved with another tokenizer or chat template: its text has other tokens",
            "Load the model with the tokenizer, and parse_special as, it was saved with.",
        )
    return prefix
