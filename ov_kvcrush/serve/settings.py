"""What a server may take and how long it waits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ov_kvcrush.errors import ConfigError

LOOPBACK = ("127.0.0.1", "localhost", "::1")

DEFAULT_CHUNK = 512
"""Tokens of a step, of a server's pipeline."""

_LEAST = {
    **dict.fromkeys(("max_body_bytes", "max_messages", "max_choices", "max_answer_tokens"), 1),
    **dict.fromkeys(("max_running", "max_sessions", "max_tool_bytes"), 1),
    **dict.fromkeys(("max_stop_strings", "max_waiting", "max_per_key", "request_seconds"), 0),
    "max_tools": 0,
    **dict.fromkeys(("queue_seconds", "drain_seconds", "session_seconds"), 0),
}


@dataclass(frozen=True)
class ServeSettings:
    """One server's settings; the pipeline has its own.

    Attributes:
        model_names: that requests may name; answers have the first.
        host: address to listen at.
        port: to listen at; 0 has the system choose one.
        keys: name of each API key by the SHA-256 of its bytes; empty asks for none.
        no_key: listen beyond loopback without keys.
        allowed_hosts: that a request's Host may name besides loopback's own.
        cors_origins: whose pages may ask.
        max_body_bytes: of a request.
        max_messages: of a chat request.
        max_choices: answers to one request.
        max_stop_strings: of a request.
        max_tools: functions that a request may offer.
        max_tool_bytes: of all of them as JSON.
        max_answer_tokens: where a request names no limit.
        max_running: sequences that the engine runs at once.
        max_waiting: requests that may wait behind as many; what comes then is answered with 429.
        max_per_key: of both together of one key; 0 does not bound them.
        queue_seconds: to the first token.
        request_seconds: to the last; 0 does not bound them.
        drain_seconds: that running answers have when the server ends.
        session_dir: folder in which idle chats are kept; None keeps them in memory alone.
        max_sessions: session keys that are known at a time.
        session_seconds: that a session may idle before it is forgotten.
        access_log: a line for each request.
    """

    model_names: tuple[str, ...]
    host: str = "127.0.0.1"
    port: int = 8000
    keys: Mapping[bytes, str] = field(default_factory=dict)
    no_key: bool = False
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    max_body_bytes: int = 8 * 1024 * 1024
    max_messages: int = 2048
    max_choices: int = 8
    max_stop_strings: int = 16
    max_tools: int = 128
    max_tool_bytes: int = 256 * 1024
    max_answer_tokens: int = 4096
    max_running: int = 16
    max_waiting: int = 64
    max_per_key: int = 0
    queue_seconds: float = 120.0
    request_seconds: float = 0.0
    drain_seconds: float = 30.0
    session_dir: Path | None = None
    max_sessions: int = 1024
    session_seconds: float = 3600.0
    access_log: bool = True

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            if not getattr(self, name) >= least:  # NaN neither
                raise ConfigError(
                    f"{name} is {getattr(self, name):g}", f"It has to be {least} or more."
                )
        if not self.model_names or not all(self.model_names):
            raise ConfigError("a server needs the name of its model", "Give --model-name NAME.")
        if self.host not in LOOPBACK and not self.keys and not self.no_key:
            raise ConfigError(
                f"{self.host} is reached from other machines, and no API key is set",
                "Give --api-key-file FILE or OV_KVCRUSH_API_KEY, or --no-key to do without.",
            )
