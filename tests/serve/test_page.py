"""The page in a real browser: shows what its server does, chats with it, and asks nobody else."""

from __future__ import annotations

import hashlib
import json
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ov_kvcrush import LLMPipeline
from tests.support.server import RunningServer, serving

playwright = pytest.importorskip("playwright.sync_api")
expect = playwright.expect

CHROMIUM = Path("/usr/bin/chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason="needs chromium")

PHONE = {"width": 390, "height": 844}
# The page's policy forbids eval, and with it all of playwright's functions given as text: what is
# looked at here is found by locators.
_PATIENCE_MS = 30_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield launched
        launched.close()


class Tab:
    """A page of a server, and what its browser had to say of it."""

    def __init__(self, browser: Any, url: str, **settings: Any) -> None:
        self.context = browser.new_context(**settings)
        self.context.set_default_timeout(_PATIENCE_MS)
        self.page = self.context.new_page()
        self.console: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.console.append(message.text))
        self.page.on("pageerror", lambda error: self.console.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.url = url
        self.page.goto(url + "/")

    def ask(self, text: str) -> None:
        self.page.get_by_label("Message").fill(text)
        self.page.get_by_role("button", name="Send").click()

    @property
    def answers(self) -> Any:
        return self.page.locator(".message:nth-child(even) .text")

    @property
    def condition(self) -> Any:
        return self.page.get_by_role("status")


@pytest.fixture
def tab(browser: Any, server: RunningServer) -> Iterator[Tab]:
    opened = Tab(browser, server.url)
    yield opened
    opened.context.close()


@pytest.fixture
def phone(browser: Any, server: RunningServer) -> Iterator[Tab]:
    opened = Tab(browser, server.url, viewport=PHONE, has_touch=True, color_scheme="dark")
    yield opened
    opened.context.close()


def stubbed(tab: Tab, *events: str, status: int = 200) -> None:
    """Have the next questions of ``tab`` answered so: what no model says when asked."""
    tab.page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(
            status=status, content_type="text/event-stream", body="".join(events)
        ),
    )


def piece(text: str, **choice: Any) -> str:
    delta = {"choices": [{"index": 0, "delta": {"content": text}, **choice}]}
    return f"data: {json.dumps(delta)}\n\n"


def test_a_page_and_its_files_may_do_nothing_but_ask_their_server(server: RunningServer) -> None:
    types = {
        "/": "text/html",
        "/page/page.js": "text/javascript",
        "/page/chat.js": "text/javascript",
        "/page/page.css": "text/css",
    }
    for path, media_type in types.items():
        response = server.client.get(path)
        assert response.headers["content-type"] == f"{media_type}; charset=utf-8"
        assert response.headers["x-content-type-options"] == "nosniff"
        policy = response.headers["content-security-policy"].split("; ")
        assert dict(rule.split(maxsplit=1) for rule in policy) == {
            **dict.fromkeys(
                ("default-src", "base-uri", "form-action", "frame-ancestors"), "'none'"
            ),
            **dict.fromkeys(("script-src", "style-src", "connect-src"), "'self'"),
            "img-src": "'self' data:",
        }


def test_an_answer_streams_in_and_its_cost_is_shown(tab: Tab, server: RunningServer) -> None:
    question = "The fierce statue costs 4229 coins. How many coins does the fierce statue cost?"
    tab.ask(question)
    expect(tab.page.locator(".cost")).to_contain_text(" out ")
    expect(tab.page.locator(".message .text").first).to_have_text(question)
    whole = server.chat(question, temperature=0).json()
    assert tab.answers.text_content() == whole["choices"][0]["message"]["content"]
    expect(tab.page.get_by_label("Message")).to_be_focused()
    assert tab.console == []
    assert {url.startswith(tab.url) or url.startswith("data:") for url in tab.asked} == {True}


def test_a_conversation_goes_on_where_it_was(tab: Tab) -> None:
    tab.ask("Hello, who are you?")
    expect(tab.page.locator(".cost")).to_have_count(1)
    tab.ask("Tell me more.")
    expect(tab.page.locator(".cost")).to_have_count(2)
    expect(tab.page.locator(".cost").last).to_contain_text("cached")
    tab.page.get_by_role("button", name="New chat").click()
    expect(tab.page.locator(".message")).to_have_count(0)


def test_figures_move(tab: Tab, server: RunningServer) -> None:
    expect(tab.condition).to_have_text("Ready")
    expect(tab.page.locator("#model")).to_have_text("needle")
    expect(tab.page.get_by_text("No request is being answered.")).to_be_visible()
    running = tab.page.locator("#pool-bar .running")
    assert running.bounding_box()["width"] == 0
    with server.stream("Tell me all of it.", max_tokens=7000, ignore_eos=True) as lines:
        next(lines)
        expect(tab.page.locator("#open tbody")).to_contain_text("answering")
        expect(tab.page.locator("#sequences")).to_contain_text("1 running, 0 waiting")
        expect(tab.page.locator("#bytes-running")).not_to_have_text("0 MB")
        assert running.bounding_box()["width"] > 0
    expect(tab.page.locator("#last tbody tr").first).to_contain_text("cancelled")
    expect(tab.page.locator("#sequences")).to_contain_text("0 running, 0 waiting")
    expect(tab.page.locator("#pool-text")).to_contain_text(" MB of ")
    assert tab.page.locator("#pool-bar .chats").bounding_box()["width"] > 0
    assert tab.console == []


@pytest.mark.parametrize("by", ["button", "key"])
def test_an_answer_is_stopped_on_both_sides(tab: Tab, server: RunningServer, by: str) -> None:
    stop = tab.page.get_by_role("button", name="Stop")
    expect(stop).to_be_disabled()
    tab.page.route("**/v1/chat/completions", endless)
    tab.ask("Tell me all of it.")
    expect(tab.answers).not_to_have_text("")
    server.wait_until(lambda: server.num_at_work == 1)
    if by == "button":
        stop.click()
    else:
        tab.page.get_by_label("Message").press("Escape")
    expect(tab.page.locator(".cost")).to_have_text("stopped")
    server.wait_until(lambda: server.num_at_work == 0, seconds=5)
    expect(stop).to_be_disabled()
    tab.page.unroute("**/v1/chat/completions")
    tab.ask("Hello")
    expect(tab.page.locator(".cost").last).to_contain_text(" out ")
    assert tab.console == []


def endless(route: Any) -> None:
    """Let a question pass that has an answer without an end."""
    body = {**route.request.post_data_json, "max_tokens": 7000, "ignore_eos": True}
    route.continue_(post_data=json.dumps(body))


def test_what_a_model_writes_is_never_markup(tab: Tab) -> None:
    markup = '<img src=x onerror="document.title=1"><b>bold</b> & <script>alert(1)</script>'
    stubbed(
        tab,
        piece(markup[:9]),
        piece(markup[9:]),
        piece("", finish_reason="stop"),
        "data: [DONE]\n\n",
    )
    tab.ask(markup)
    expect(tab.answers).to_have_text(markup)
    expect(tab.page.locator(".message .text").first).to_have_text(markup)
    assert tab.page.locator("#messages img, #messages b, #messages script").count() == 0


def test_events_are_read_however_they_are_spelled(tab: Tab) -> None:
    crlf = piece("grün, ").replace("\n", "\r\n")
    end = piece("", finish_reason="length").replace("data: ", "data:")
    stubbed(tab, ": keep-alive\n\n", crlf, piece("\u2028blau"), end, "data: [DONE]\n\n")
    tab.ask("Which colours are there?")
    expect(tab.page.get_by_role("button", name="Send")).to_be_enabled()
    assert tab.answers.text_content() == "grün, \u2028blau"
    expect(tab.page.locator(".error")).to_have_count(0)


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([piece("Well, "), 'data: {"error":{"message":"it broke"}}\n\n'], "it broke"),
        ([piece("Well, ")], "The connection ended before the answer did."),
    ],
)
def test_an_answer_that_breaks_off_says_so(tab: Tab, events: list[str], message: str) -> None:
    stubbed(tab, *events)
    tab.ask("Hello")
    expect(tab.page.locator(".error")).to_have_text(message)
    expect(tab.answers).to_have_text("Well, ")
    expect(tab.page.get_by_label("Message")).to_have_value("Hello")


def test_a_refused_question_says_why_and_may_be_changed(tab: Tab) -> None:
    question = "The grass is green. " * 6000
    tab.ask(question)
    expect(tab.page.locator(".error")).to_contain_text("tokens")
    expect(tab.page.get_by_label("Message")).to_have_value(question)
    tab.ask("Hello")
    expect(tab.page.locator(".cost")).to_have_count(1)


def test_the_key_is_asked_for_and_forgotten(browser: Any, pipeline: LLMPipeline) -> None:
    keys = {hashlib.sha256(b"of-alice").digest(): "alice"}
    with serving(lambda: pipeline, key="of-alice", keys=keys) as guarded:
        tab = Tab(browser, guarded.url)
        expect(tab.condition).to_have_text("An API key is needed")
        field = tab.page.get_by_label("API key", exact=True)
        field.fill("of-nobody")
        field.press("Enter")
        expect(tab.page.locator("#key-note")).to_have_text("The server does not know this key.")
        field.fill("of-alice")
        field.press("Enter")
        expect(tab.condition).to_have_text("Ready")
        expect(field).to_be_hidden()
        tab.ask("Hello")
        expect(tab.page.locator(".cost")).to_contain_text(" out ")
        expect(tab.page.locator("#last tbody tr").first).to_contain_text("alice")
        assert not any("of-alice" in url for url in tab.asked)
        state = tab.context.storage_state()
        assert (state["cookies"], state["origins"]) == ([], [])
        tab.page.reload()
        expect(tab.condition).to_have_text("Ready")
        tab.page.get_by_role("button", name="Forget API key").click()
        expect(tab.condition).to_have_text("An API key is needed")
        tab.context.close()


def test_the_keyboard_is_enough(tab: Tab) -> None:
    message = tab.page.get_by_label("Message")
    for _ in range(8):
        tab.page.keyboard.press("Tab")
        if tab.page.locator("textarea:focus").count():
            break
    expect(message).to_be_focused()
    tab.page.keyboard.type("Hello")
    tab.page.keyboard.press("Shift+Enter")
    tab.page.keyboard.type("there")
    expect(message).to_have_value("Hello\nthere")
    tab.page.keyboard.press("Enter")
    expect(tab.page.locator(".cost")).to_have_count(1)
    expect(tab.page.locator(".message .text").first).to_have_text("Hello\nthere")
    expect(message).to_be_focused()


def test_a_small_screen_in_the_dark_shows_all_of_it(phone: Tab) -> None:
    phone.ask("Hello")
    expect(phone.page.locator(".cost")).to_have_count(1)
    expect(phone.page.locator("#last tbody")).to_contain_text("/v1/chat/completions")
    expect(phone.page.locator("body")).to_have_css("background-color", "rgb(21, 23, 26)")
    # A PNG's width stands in its first chunk; of the whole page it is that of what overflows too.
    picture = phone.page.screenshot(full_page=True)
    assert struct.unpack(">I", picture[16:20])[0] == PHONE["width"]


def test_a_page_says_that_its_server_loads_or_has_gone(browser: Any, pipeline: LLMPipeline) -> None:
    loaded = threading.Event()

    def load() -> LLMPipeline:
        loaded.wait()
        return pipeline

    with serving(load, wait=False) as server:
        tab = Tab(browser, server.url)
        expect(tab.condition).to_have_text("Loading the model")
        loaded.set()
        expect(tab.condition).to_have_text("Ready", timeout=_PATIENCE_MS)
    expect(tab.condition).to_have_text("The server does not answer")
    expect(tab.page.locator("#figures")).to_have_class("stale")
    tab.context.close()
