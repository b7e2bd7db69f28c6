"""How a tokenizer splits a text into words before it joins their bytes, by the names files have."""

from __future__ import annotations

_ENGLISH = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA_3 = rf"{_ENGLISH}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}"
_QWEN_2 = rf"{_ENGLISH}|{_WORDS}|\p{{N}}|{_REST}"

SPLITS: dict[str, tuple[str, ...]] = {
    "command-r": (r"\p{N}", _GPT_2),
    "deepseek-r1-qwen": (_QWEN_2,),
    "falcon3": (_LLAMA_3,),
    "gpt-2": (_GPT_2,),
    "llama-bpe": (_LLAMA_3,),
    "llama-v3": (_LLAMA_3,),
    "llama3": (_LLAMA_3,),
    "qwen2": (_QWEN_2,),
    "refact": (r"\p{N}", _GPT_2),
    "smaug-bpe": (_LLAMA_3,),
    "smollm": (r"\p{N}", _GPT_2),
    "starcoder": (r"\p{N}", _GPT_2),
}
"""Regular expressions, one after another, each splitting further: what matches is a word."""

BEGUN = frozenset({"falcon3", "llama-bpe", "llama-v3", "llama3"})
"""Those whose texts begin with a token of its own where the file does not say whether they do."""
