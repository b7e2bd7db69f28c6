"""The page: it holds what was measured, needs no other file, and lets nothing act."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ov_kvcrush.errors import ConfigError, OVKVCrushError
from ov_kvcrush.evaluation.configurations import Configuration
from ov_kvcrush.evaluation.reporting.page import writing
from ov_kvcrush.evaluation.reporting.page.writing import (
    RunFacts,
    report_html,
    require_report,
    write_report,
)
from ov_kvcrush.evaluation.reporting.suite_results import SuiteResults
from tests.support.suite_results import (
    FULL,
    RANK,
    make_result,
    make_sample,
    single_results,
    turns_results,
)

FACTS = RunFacts(
    "What cut caches answer",
    "ov-kvcrush eval model --suite turns",
    "a model",
    "a processor, 24 GB",
    {"openvino": "2026.4.1"},
    "2026-01-02",
)
NASTY = "<script>alert('1')</script>&amp;\"'>\x00\x1b[31m\ud800</details></table>{{ 7 * 7 }}$x^2$"


class Page(HTMLParser):
    """What a browser finds in a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def attributes(self, name: str) -> Iterator[str]:
        return (attributes[name] for _, attributes in self.tags if name in attributes)


@pytest.fixture(scope="module")
def html() -> str:
    return report_html(turns_results(), FACTS, compare="snapkv")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_every_element_is_closed(page: Page) -> None:
    assert page.open == []


def test_it_says_what_was_run(page: Page) -> None:
    for fact in (
        "What cut caches answer",
        "ov-kvcrush eval model --suite turns",
        "openvino 2026.4.1",
        "3 samples, 7 questions that are scored.",
    ):
        assert fact in page.text


def test_it_has_the_tables_figures(page: Page) -> None:
    assert "rank 1/4 100.0 100.0% 58.3 70.0% 72.2 81.2% 1,000 5.00" in page.text
    assert "mean of tasks 3 91.7 79.2 16.7" in page.text


def test_differences_inside_their_interval_are_called_that(page: Page) -> None:
    assert "snapkv 1/4 known +50.0 [+0.0, +100.0] inside the interval" in page.text


def test_wrong_answers_are_marked_in_words(page: Page) -> None:
    assert "scores 0 0.0 ▼ ✗ wrong" in page.text
    assert "scores 1 100.0 ✓ right" in page.text
    assert "Gold: Oslo in Oslo" in page.text


def test_it_needs_no_other_file_and_runs_nothing(html: str, page: Page) -> None:
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "iframe", "img", "object", "embed", "base", "form"}
    targets = [*page.attributes("href"), *page.attributes("xlink:href"), *page.attributes("src")]
    assert targets
    assert all(target.startswith(("#", "data:image/png;base64,")) for target in targets)
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert "@import" not in html
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))
    assert "default-src 'none'" in html


def test_names_inside_pictures_are_each_of_one_picture() -> None:
    kept = ((900, 1100), (30, 1970))
    sample = make_sample("a", "qa")
    result = make_result(sample, {("known", FULL): (1,), ("known", RANK): (1,)}, kept_by_head=kept)
    page = Page(report_html(SuiteResults.of((FULL, RANK), [sample], [result]), FACTS))
    ids = list(page.attributes("id"))
    assert len(ids) == len(set(ids))
    wanted = {target[1:] for target in page.attributes("xlink:href") if target[0] == "#"}
    wanted |= {
        name for clip in page.attributes("clip-path") for name in re.findall(r"#(\w+)", clip)
    }
    assert wanted
    assert wanted <= set(ids)


def test_pictures_take_the_pages_colours(html: str) -> None:
    pictures = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    # Two settings: scores of all and of later turns, and tasks.
    assert len(pictures) == 2 * 3
    for picture in pictures:
        assert "var(--ink)" in picture
        assert "var(--series-0)" in picture
        assert not re.search(r"<svg[^>]* (width|height)=", picture)
        assert 'role="img"' in picture


def test_maps_of_kept_tokens_are_there_where_cells_tell(html: str) -> None:
    assert "Tokens kept by layer and KV head" not in html
    kept = ((900, 1100), (30,))
    sample = make_sample("a", "qa")
    result = make_result(sample, {("known", FULL): (1,), ("known", RANK): (1,)}, kept_by_head=kept)
    html = report_html(SuiteResults.of((FULL, RANK), [sample], [result]), FACTS)
    labels = re.findall(r'aria-label="(Tokens kept[^"]*)"', html)
    assert labels == ["Tokens kept by 2 layers and 2 KV heads, 30 to 1,100"]


def test_whatever_models_and_data_say_is_shown_and_does_not_act() -> None:
    peer = Configuration("rank:window_size=32", "paged", RANK.keep)
    sample = make_sample(
        NASTY, NASTY, context=NASTY, question=NASTY, golds=(NASTY, "\u202e" + NASTY)
    )
    cells = {("known", FULL): (1,), ("known", RANK): (0,), ("known", peer): (0.5,)}
    results = SuiteResults.of(
        (FULL, RANK, peer), [sample], [make_result(sample, cells, text=NASTY)]
    )
    facts = RunFacts(NASTY, NASTY, NASTY, NASTY, {NASTY: NASTY}, NASTY, {NASTY: NASTY})
    html = report_html(results, facts, compare="full")
    html.encode()
    page = Page(html)
    assert page.open == []
    assert "script" not in {tag for tag, _ in page.tags}
    assert "49" not in re.findall(r"\d+", page.text)
    # What is seen is what was said, with what cannot be seen spelled out.
    shown = NASTY.replace("\x00", "\\x00").replace("\x1b", "\\x1b").replace("\ud800", "\\ud800")
    assert page.text.count(shown) > 10
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", html)


def test_a_long_text_is_not_in_the_page() -> None:
    long = "word " * 20_000
    sample = make_sample(long, long, context=long, question=long, golds=(long,) * 20)
    results = SuiteResults.of(
        (FULL,), [sample], [make_result(sample, {("known", FULL): (0.5,)}, text=long)]
    )
    assert len(report_html(results, FACTS)) < 100_000


def test_thousands_of_samples_stay_within_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "_MOST_BYTES_OF_SAMPLES", 20_000)
    monkeypatch.setattr(writing, "_MOST_ROWS", 30)
    html = report_html(single_results(100), FACTS)
    num_in_full = html.count('<details class="sample">')
    assert 5 < num_in_full < 30
    assert sum(map(len, re.findall(r'<details class="sample">.*?</tbody>', html, re.S))) < 20_000
    assert html.count('<th scope="row">sample ') == 30
    assert f"{100 - 30 - num_in_full} more samples" in html


@pytest.mark.parametrize("what", ["one cache", "without a full cache", "without sizes"])
def test_little_can_be_shown_too(what: str) -> None:
    caches = {"one cache": (FULL,), "without a full cache": (RANK,)}.get(what, (FULL, RANK))
    sample = make_sample("a", "qa")
    result = make_result(sample, {("known", cache): (1,) for cache in caches})
    if what == "without sizes":
        cells = tuple(type(c)(c.setting, c.configuration, 0, 0, 0, c.answers) for c in result.cells)
        result = type(result)(result.id, result.task, result.num_tokens, cells)
    html = report_html(SuiteResults.of(caches, [sample], [result]), FACTS)
    assert Page(html).open == []
    assert ("Score over the cache" in html) == (what != "without sizes")


def test_nothing_at_all_is_a_page_too() -> None:
    assert "0 samples" in report_html(SuiteResults.of((FULL, RANK), [], []), FACTS)


def test_it_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(path, single_results(), FACTS)
    assert path.read_text(encoding="utf-8").strip().endswith("</html>")
    with pytest.raises(OVKVCrushError, match="cannot write"):
        write_report(tmp_path / "nowhere" / "report.html", single_results(), FACTS)


def test_what_was_not_measured_is_not_compared_with(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    with pytest.raises(ConfigError, match="'h2o' was not measured"):
        write_report(path, single_results(), FACTS, compare="h2o")
    assert not path.exists()


def test_a_report_that_cannot_be_written_is_refused_early(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    require_report(tmp_path / "report.HTML")
    with pytest.raises(ConfigError, match="is not the name of a page"):
        require_report(tmp_path / "report.pdf")
    monkeypatch.setattr(writing, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install .*ov-kvcrush\[eval\]"):
        require_report(tmp_path / "report.html")


def test_an_empty_answer_is_called_that() -> None:
    sample = make_sample("a", "qa")
    result = make_result(sample, {("known", FULL): (0,)}, text="\n")
    assert "(empty)" in report_html(SuiteResults.of((FULL,), [sample], [result]), FACTS)
