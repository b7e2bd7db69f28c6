"""This package's own Python sources, which serve as the code that models are measured on.

So none of it is copied from others, and there is as much of it as is needed. It changes from
release to release, as a plan says by the text's fingerprint.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

# A checkout has the last two in folders of their own; where all is installed they lie in the first.
_PACKAGES = ("ov_kvcrush", "ov_kvcrush.export", "ov_kvcrush.runtime")

_LEAST_CHARACTERS = 5000


def read_own_code(num_files: int) -> list[str]:
    """The texts of at most ``num_files`` of the package's larger modules, evenly spread over them.

    In the order of the modules' names, whether the package is installed or a checkout.
    """
    modules = {
        ".".join((name, *path.relative_to(folder).with_suffix("").parts)): path
        for name in _PACKAGES
        for folder in _folders(name)
        for path in folder.rglob("*.py")
    }
    texts = [modules[name].read_text(encoding="utf-8") for name in sorted(modules)]
    large = [text for text in texts if len(text) >= _LEAST_CHARACTERS]
    count = min(num_files, len(large))
    return [large[number * len(large) // count] for number in range(count)]


def _folders(package: str) -> list[Path]:
    spec = find_spec(package)
    return [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]
