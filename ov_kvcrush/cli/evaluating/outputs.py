"""Where an evaluation's figures go, and that they can be written there in the end."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ov_kvcrush.cli.output.json_value import print_json
from ov_kvcrush.errors import ConfigError
from ov_kvcrush.evaluation.plot import require_plot
from ov_kvcrush.files import partial_of, write_text

Figures = Callable[[bool], dict[str, Any]]
"""All figures as JSON values; True is for every document's too."""


@dataclass(frozen=True)
class Outputs:
    """What is shown of an evaluation, and where.

    Attributes:
        compare: policy to which differences are given.
        by_task: a second table.
        as_json: instead of tables.
        output: file that is written anew whenever something is finished.
        plot: picture that is drawn in the end.
    """

    compare: str | None = None
    by_task: bool = False
    as_json: bool = False
    output: Path | None = None
    plot: Path | None = None

    def check(self, data: Path | None) -> None:
        """Refuse before anything runs what could not be written in the end.

        Raises:
            ConfigError: a file cannot, or should not, be written, or no picture can be drawn.
        """
        for path in (self.output, self.plot):
            if path is not None:
                check_writable(path, data)
        if self.plot is not None:
            require_plot(self.plot)

    def keep(self, figures: Figures) -> None:
        """Write what is finished to ``output``."""
        if self.output is not None:
            text = json.dumps(figures(True), ensure_ascii=False, indent=2)
            write_text(self.output, f"{text}\n")

    @contextmanager
    def shown(
        self,
        figures: Figures,
        has_any: Callable[[], bool],
        print_tables: Callable[[], None],
        save_plot: Callable[[Path], None] | None = None,
    ) -> Iterator[None]:
        """Show when the ``with`` ends what was finished, also after Ctrl+C or a failure.

        It took long to run.
        """
        try:
            yield
        finally:
            if has_any():
                if self.as_json:
                    print_json(figures(False), indent=2)
                else:
                    print_tables()
                if self.plot is not None and save_plot is not None:
                    save_plot(self.plot)


def check_writable(path: Path, data: Path | None) -> None:
    """Refuse before anything runs a file that could not, or should not, be written in the end.

    Raises:
        ConfigError: it is so, or ``path`` is ``data``, which is read.
    """
    if data is not None and os.path.realpath(path) == os.path.realpath(data):
        raise ConfigError(f"{path} is the data itself", "Give the name of another file.")
    folder = Path(os.path.realpath(path)).parent
    if not os.path.isdir(folder):
        raise ConfigError(f"{path} cannot be written: there is no such folder")
    if os.path.exists(path) and not os.path.isfile(path):
        raise ConfigError(f"{path} cannot be written: it is not a file", "Give the name of a file.")
    try:
        os.stat(partial_of(path))
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise ConfigError(f"{path} cannot be written: its name is too long") from None
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"{path} cannot be written: its folder is read-only")
