"""``/completions``: texts and token ids that the model continues as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

from ov_kvcrush.serve.answers import AnswerResponse
from ov_kvcrush.serve.replies import CompletionReply
from ov_kvcrush.serve.sampling import generation_settings, require_room
from ov_kvcrush.serve.schemas import CompletionRequest
from ov_kvcrush.serve.service import Service

if TYPE_CHECKING:
    from ov_kvcrush.pipeline.answer import Answer
    from ov_kvcrush.pipeline.async_pipeline import AsyncLLMPipeline
    from ov_kvcrush.pipeline.results import DecodedResults

router = APIRouter()


@router.post("/completions")
async def completions(body: CompletionRequest, request: Request) -> Response:
    """What follows each prompt."""
    service: Service = request.app.state.service
    pipeline = service.usable_pipeline()
    service.require_model(body.model)
    record = request.state.record
    question = _Completion(service, pipeline, body, record.key)
    reply = CompletionReply.of(body, service.settings.model_names[0], service.texts)
    return AnswerResponse(service, record, question, reply, bool(body.stream))


class _Completion:
    """Prompts that have nothing to do with one another."""

    form_field = "response_format"

    def __init__(
        self, service: Service, pipeline: AsyncLLMPipeline, body: CompletionRequest, owner: str
    ) -> None:
        self._service = service
        self._pipeline = pipeline
        self._body = body
        self._owner = owner

    async def ask(self) -> Sequence[Answer]:
        """Queue one answer for each."""
        pipeline, body = self._pipeline, self._body
        defaults, length = pipeline.get_generation_config(), pipeline.context_length
        return [
            pipeline.generate(
                prompt,
                owner=self._owner,
                **generation_settings(body, defaults, self._service.settings, length),
            )
            for prompt in body.prompts
        ]

    def check(self, answer: Answer) -> None:
        """The answer that is asked for has to fit in behind the prompt."""
        require_room(self._body, answer.num_prompt_tokens, self._pipeline.context_length)

    async def end(self, results: Sequence[DecodedResults] | None) -> None:
        """Nothing is kept."""
