"""Which flags of ``ov-kvcrush eval`` are for which suite."""

from __future__ import annotations

from collections.abc import Sequence

from ov_kvcrush.errors import ConfigError

NEEDLE, FIDELITY, LONGBENCH, RULER, TURNS = "needle", "fidelity", "longbench", "ruler", "turns"
PPL = "ppl"

_ON_SAMPLES = (LONGBENCH, RULER, TURNS)

# Those that are not here are for all.
_SUITES = {
    "--data": (NEEDLE, FIDELITY, LONGBENCH, PPL),
    "--tokens": (NEEDLE, FIDELITY),
    "--split": (NEEDLE, FIDELITY, LONGBENCH, PPL),
    "--length": (*_ON_SAMPLES, PPL),
    "--task": (NEEDLE, FIDELITY, *_ON_SAMPLES),
    "--by-task": (NEEDLE, FIDELITY, *_ON_SAMPLES),
    "--prefill-factor": (NEEDLE, FIDELITY, *_ON_SAMPLES),
    "--samples": (RULER, TURNS),
    "--seed": (RULER, TURNS),
    "--setting": (FIDELITY, *_ON_SAMPLES),
    "--answer-tokens": (FIDELITY,),
    "--chat-template": (FIDELITY, LONGBENCH),
    "--journal": _ON_SAMPLES,
    "--csv": _ON_SAMPLES,
    "--report": _ON_SAMPLES,
    "--plot": (NEEDLE, FIDELITY),
    "--prompt-lookup": (NEEDLE,),
}


def refuse_foreign_flags(suite: str, given: Sequence[str]) -> None:
    """Refuse a flag that would change nothing.

    Raises:
        ConfigError: one of ``given`` is not for ``suite``.
    """
    for flag in given:
        suites = _SUITES.get(flag, (suite,))
        if suite not in suites:
            raise ConfigError(
                f"{flag} is not for --suite {suite}, but for {', '.join(suites)}",
                "Leave it out, or give the suite.",
            )
