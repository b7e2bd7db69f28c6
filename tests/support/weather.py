"""Functions that tests have a model call, and a look at what it calls them with."""

from __future__ import annotations

import json
from typing import Any

PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "unit": {"enum": ["celsius", "fahrenheit"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "unit", "days"],
    "additionalProperties": False,
}
WEATHER: dict[str, Any] = {"name": "weather", "description": "Tells it.", "parameters": PARAMETERS}
CLOCK: dict[str, Any] = {"name": "clock", "description": "Tells the time."}
TOOLS: list[Any] = [{"type": "function", "function": one} for one in (WEATHER, CLOCK)]
FLAT_TOOLS: list[Any] = [{"type": "function", **one} for one in (WEATHER, CLOCK)]


def require_valid(name: str, arguments: str) -> None:
    """What the schemas of the two say."""
    read = json.loads(arguments)
    if name == "clock":
        assert read == {}
        return
    assert name == "weather"
    assert list(read) == ["city", "unit", "days"]
    assert len(read["city"]) <= 12
    assert read["unit"] in ("celsius", "fahrenheit")
    assert 1 <= read["days"] <= 9
