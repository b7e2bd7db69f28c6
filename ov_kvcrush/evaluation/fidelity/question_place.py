"""Where in a prompt its question begins: a cache that is cut before it has not read it."""

from __future__ import annotations

from ov_kvcrush.pipeline.rendered_text import RenderedText


def place_of(question: str, content: str, rendered: RenderedText) -> int | None:
    """Where in the text of ``rendered`` the question begins, in characters.

    Behind the content where there is no question; None where it cannot be found.

    Args:
        question: empty for none.
        content: what is said, which ends with the question.
        rendered: what the chat template has made of it.
    """
    # Templates trim messages.
    asked, content = question.strip(), content.strip()
    begin = rendered.text.rfind(content)
    if begin >= 0 and content.endswith(asked):
        begin += len(content) - len(asked)
    else:
        begin = rendered.text.rfind(asked) if asked else -1
    if begin < 0:
        return None
    # The space before a word is a part of its token.
    return len(rendered.text[:begin].rstrip(" ")) if asked else begin
