"""The page's style names every colour that a picture is drawn in, light and dark."""

from __future__ import annotations

from importlib.resources import files

from ov_kvcrush.evaluation.reporting.page.svg import SERIES


def test_a_dark_page_and_a_light_one_have_all_colours_of_policies() -> None:
    style = files("ov_kvcrush.evaluation.reporting.page").joinpath("report.css").read_text()
    for number in range(len(SERIES)):
        assert style.count(f"--series-{number}:") == 2
