"""Chats of a server, asked as its routes ask them, and a process that does it until a kill."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from openvino_genai import ChatHistory

from ov_kvcrush import AsyncLLMPipeline, KVCacheConfig
from ov_kvcrush.runtime.generation.metrics import GenerationMetrics
from ov_kvcrush.serve.chats import Chats
from ov_kvcrush.serve.settings import ServeSettings
from tests.support.texts import rooms

BUDGET = KVCacheConfig(max_cache_size=96, start_size=8, recent_size=24, pool_size=4096)
DOCUMENT = rooms(60)

Messages = list[dict[str, Any]]


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def pipeline_of(folder: Path | str, **settings: Any) -> AsyncLLMPipeline:
    return AsyncLLMPipeline(folder, **{"kv_cache_config": BUDGET, **settings})


def chats_of(pipeline: AsyncLLMPipeline, folder: Path | None = None, **settings: Any) -> Chats:
    """Chats that are saved as soon as they are looked after."""
    configured = ServeSettings(model_names=("needle",), session_dir=folder, **settings)
    return Chats(pipeline, configured, save_after=0.0)


async def ask(
    pipeline: AsyncLLMPipeline,
    chats: Chats,
    messages: Messages,
    key: str = "key",
    owner: str = "ann",
) -> GenerationMetrics:
    """Have ``messages`` answered in a chat; the answer joins them."""
    turn = await chats.begin(key, owner)
    assert turn is not None
    text = None
    try:
        answer = pipeline.generate(
            ChatHistory(messages), session=turn.session, max_new_tokens=16, ignore_eos=True
        )
        results = await answer
        text = results.texts[0]
    finally:
        await turn.end(messages, text)
    messages.append({"role": "assistant", "content": text})
    metrics: GenerationMetrics = results.metrics[0]
    return metrics


async def _serve(model: str, folder: str) -> None:
    """Answer two turns, save what idles, say that, and be killed."""
    pipeline = pipeline_of(model)
    chats = chats_of(pipeline, Path(folder))
    messages = [user(DOCUMENT)]
    await ask(pipeline, chats, messages)
    messages.append(user("And room 7?"))
    await ask(pipeline, chats, messages)
    await chats.save_idle()
    print(messages, flush=True)
    await asyncio.sleep(600)


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:]))
