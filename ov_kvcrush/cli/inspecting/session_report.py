"""What inspect shows of a session file: as tables, and as JSON values."""

from __future__ import annotations

import dataclasses
from typing import Any

from rich.table import Table

from ov_kvcrush.cli.inspecting.model_report import time_of
from ov_kvcrush.cli.output.console import print_rows, table_console
from ov_kvcrush.cli.output.plan_rows import Rows, geometry_line, precision_ranges, size
from ov_kvcrush.inspection.kind import SESSION
from ov_kvcrush.inspection.model import InspectedModel
from ov_kvcrush.inspection.session import Fit, InspectedSession, config_of
from ov_kvcrush.pipeline.saving import CHAT

_MOST_SHOWN = 60


def print_session(session: InspectedSession, model: InspectedModel | None, fit: Fit | None) -> None:
    """Print what there is to know of ``session`` on stdout, and whether ``model`` fits it."""
    contents = session.contents
    identity, state = contents.identity, contents.state
    rows = _about_text(session)
    if state is None:
        rows.append(("Cache", "not saved, as its place was given up: the text is read anew"))
    else:
        read, kept = session.num_tokens, contents.num_kept
        rows.append(("Tokens", f"{read:,} read, {kept:,.0f} of them kept by a KV head on average"))
        waiting = len(state.tokens) - read
        if waiting:
            rows.append(("", f"{waiting:,} more that the cache has not read yet"))
        rows.append(("Cuts", _cuts(session)))
        rows.append(("KV cache", size(contents.kv_bytes)))
        if state.is_thorough or contents.gate:
            by = "a second reading" if state.is_thorough else "the model's gate"
            rows.append(("Scored by", by))
    rows.append(("Budget", _budget(contents.settings)))
    rows += [("Stored as", line) for line in precision_ranges(identity.precisions)]
    rows.append(
        ("On disk", f"{size(session.file_bytes)}, whole: its content is what its digest says")
    )
    rows.append(("Model", f"{geometry_line(identity.layers)}, {identity.vocab_size:,} token ids"))
    rows.append(("", f"fingerprint {identity.model[:16]}"))
    if model is not None and fit is not None:
        rows += _about_fit(model, fit)
    made_with = ", ".join(f"{package} {version}" for package, version in contents.made_with.items())
    rows.append(("Made with", f"{made_with}, format {contents.version}".removeprefix(", ")))
    rows.append(("Written", time_of(session.written)))
    print_rows(str(session.path), [(name, printable(value)) for name, value in rows])
    if state is not None:
        table_console().print(_by_layer(session))


def session_figures(
    session: InspectedSession, model: InspectedModel | None, fit: Fit | None
) -> dict[str, Any]:
    """The same as JSON values; ``kept_by_head`` are tokens by layer and KV head."""
    contents = session.contents
    state = contents.state
    held = [layer.length for layer in state.layers] if state else []
    figures: dict[str, Any] = {
        "kind": SESSION,
        "path": str(session.path),
        "saved": session.kind,
        "messages": session.messages,
        "system_message": contents.about.get("system_message", ""),
        "document_characters": len(session.text),
        "num_tokens": session.num_tokens,
        "num_kept": contents.num_kept,
        "kept_by_head": contents.kept_by_head,
        "caches": [
            {"layer": layer.layer, "heads": layer.heads, "tokens": tokens}
            for layer, tokens in zip(contents.cache_layers, held, strict=False)
        ],
        "cuts": [dataclasses.asdict(cut) for cut in state.cuts] if state else [],
        "is_thorough": state is not None and state.is_thorough,
        "kv_bytes": contents.kv_bytes,
        "file_bytes": session.file_bytes,
        "written": time_of(session.written),
        "format_version": contents.version,
        "identity": contents.identity.to_dict(),
        "gate": contents.gate,
        "kv_cache_config": contents.settings,
        "made_with": contents.made_with,
    }
    if model is not None and fit is not None:
        figures["model"] = {
            "path": str(model.path),
            "fingerprint": model.plan.fingerprint,
            "fits": not fit.reason,
            "reason": fit.reason,
            "same_gate": fit.same_gate,
        }
    return figures


def printable(text: str) -> str:
    """``text`` on one line, without what a terminal would obey."""
    return "".join(c if c.isprintable() else " " for c in text)


def _about_text(session: InspectedSession) -> Rows:
    if session.kind == CHAT:
        messages = session.messages
        asked = [message["content"] for message in messages if message["role"] == "user"]
        rows = [("Chat", f"{len(messages):,} messages, {len(asked):,} of them questions")]
        for name, text in (("First question", asked[:1]), ("Last question", asked[1:][-1:])):
            rows += [(name, _shortened(one)) for one in text]
        return rows
    twice = ", read twice" if session.contents.state and session.contents.state.is_thorough else ""
    rows = [("Document", f"{len(session.text):,} characters{twice}")]
    rows.append(("Begins", _shortened(session.text)))
    system = session.contents.about.get("system_message")
    if isinstance(system, str) and system:
        rows.append(("System message", _shortened(system)))
    return rows


def _about_fit(model: InspectedModel, fit: Fit) -> Rows:
    told = f"cannot go on from its cache: {fit.reason}" if fit.reason else "can go on from it"
    rows = [(str(model.path), told)]
    if not fit.reason and fit.same_gate is False:
        rows.append(("", "its gate is not the one that scored the tokens: the scores do not count"))
    return rows


def _budget(settings: dict[str, Any]) -> str:
    config = config_of(settings)
    if config is None:
        return "noted in settings of another release"
    if not config.evicts:
        return "none: nothing is evicted"
    parts = [f"{config.max_cache_size:,} tokens and {config.decode_slack:,} more between cuts"]
    parts += [f"{config.importance} with {config.representatives}"]
    return ", ".join(parts)


def _cuts(session: InspectedSession) -> str:
    cuts = session.contents.state.cuts if session.contents.state else ()
    if not cuts:
        return "none so far"
    last = cuts[-1]
    count = f"{len(cuts):,}, the last one" if len(cuts) > 1 else "1,"
    return f"{count} to {last.budget:,} tokens when {last.num_cached:,} had been read"


def _by_layer(session: InspectedSession) -> Table:
    read = session.num_tokens
    table = Table(title=f"By layer: tokens kept of {read:,}", title_justify="left")
    table.add_column("layer", justify="right")
    table.add_column("KV heads")
    table.add_column("part", justify="right")
    for number, heads in enumerate(session.contents.kept_by_head):
        part = sum(heads) / len(heads) / read
        kept = "  ".join(f"{tokens:,}" for tokens in heads)
        table.add_row(str(number), kept, f"{100 * part:.1f} %")
    return table


def _shortened(text: str) -> str:
    line = printable(" ".join(text[: 4 * _MOST_SHOWN].split()))
    return line if len(line) <= _MOST_SHOWN else f"{line[: _MOST_SHOWN - 2]} …"
