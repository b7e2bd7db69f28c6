"""Asks every question of every conversation, one configuration of the cache at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ov_kvcrush.errors import ConfigError, ContextError
from ov_kvcrush.evaluation.configurations import Configuration
from ov_kvcrush.evaluation.dataset import Example
from ov_kvcrush.evaluation.results import Outcome, Record, ScoredAnswer
from ov_kvcrush.model_folder import load_tokenizer
from ov_kvcrush.pipeline.llm_pipeline import LLMPipeline
from ov_kvcrush.pipeline.loaded_model import model_context_length
from ov_kvcrush.pipeline.prompt_encoder import PromptEncoder
from ov_kvcrush.pipeline.special_tokens import added_tokens
from ov_kvcrush.precisions import AUTO, SAME
from ov_kvcrush.progress import Progress


@dataclass(frozen=True)
class Document:
    """A conversation as the model reads it.

    Attributes:
        example: what is asked.
        prompt_tokens: tokens of the first prompt.
        total_tokens: of all turns with their right answers.
        answer_limits: by turn, tokens the model may answer with.
    """

    example: Example
    prompt_tokens: int
    total_tokens: int
    answer_limits: tuple[int, ...]

    @property
    def max_tokens(self) -> int:
        """The most it can ever be."""
        return self.total_tokens + max(self.answer_limits)


@dataclass(frozen=True)
class Evaluation:
    """A model on a device, and how it reads.

    Attributes:
        model_dir: exported model.
        device: name of the device.
        properties: of the plugin.
        prefill_factor: ``prefill_budget`` as a multiple of the budget; None is the config's own.
        chunk: tokens of a prompt that are read at once; None is the pipeline's own.
        decode_precision: of the paged engine, as ``LLMPipeline`` has it.
        prompt_lookup: likewise.
    """

    model_dir: Path
    device: str = "CPU"
    properties: Mapping[str, str] | None = None
    prefill_factor: float | None = None
    chunk: int | None = None
    decode_precision: str = AUTO
    prompt_lookup: int = 0

    def read(self, examples: Sequence[Example]) -> list[Document]:
        """Count the tokens of ``examples``.

        Raises:
            ModelError: there is no tokenizer.
            ContextError: one leaves no room in the model's context.
        """
        encoder = PromptEncoder(load_tokenizer(self.model_dir), added_tokens(self.model_dir))
        documents = [_document(encoder, example) for example in examples]
        context = model_context_length(self.model_dir)
        for document in documents:
            if 0 < context <= document.total_tokens:
                error = ContextError(document.total_tokens, context)
                error.message = f"{document.example.id}: {error.message}"
                error.hint = "Leave long documents out with --tokens LOW HIGH."
                raise error
        return documents

    def check(self, configuration: Configuration, documents: Sequence[Document]) -> None:
        """Refuse before anything runs what some document would be refused for later.

        Raises:
            ConfigError: a document's budget is too small, or as ``KVCacheConfig``.
        """
        for document in documents:
            budget = configuration.budget(document.prompt_tokens)
            try:
                configuration.cache_config(budget, self.prefill_factor)
            except ConfigError as error:
                raise ConfigError(
                    f"{configuration.name} of {document.example.id}, "
                    f"{document.prompt_tokens} tokens: {error.message}",
                    "Keep more, or leave short documents out with --tokens LOW HIGH.",
                ) from error

    def compare(
        self,
        configurations: Sequence[Configuration],
        examples: Sequence[Example],
        progress: Progress,
    ) -> Iterator[Outcome]:
        """Ask everything with one configuration after the other; each outcome once it is there.

        Args:
            configurations: of the cache; all are checked before anything runs.
            examples: what to ask.
            progress: is told which configuration runs, and how far it is.

        Raises:
            ConfigError: as :meth:`check`.
            ContextError: as :meth:`read`; else as :meth:`run`.
        """
        documents = self.read(examples)
        for configuration in configurations:
            self.check(configuration, documents)
        for number, configuration in enumerate(configurations, start=1):
            progress.step(number, len(configurations), configuration.name)
            outcome = self.run(configuration, documents, progress.advance)
            if outcome.num_restarts and configuration.engine == "paged":
                progress.note(f"{outcome.num_restarts} histories were read anew")
            yield outcome

    def run(
        self,
        configuration: Configuration,
        documents: Sequence[Document],
        on_progress: Callable[[float], None] = lambda share: None,
    ) -> Outcome:
        """Ask everything about ``documents`` with one configuration of the cache.

        Args:
            configuration: of the cache.
            documents: what to ask about.
            on_progress: told what share is done, 0 to 1.

        Raises:
            OVKVCrushError: as the pipeline, at construction or when it generates.
            KeyboardInterrupt: Ctrl+C.
        """
        by_budget: dict[int, list[int]] = {}
        for number, document in enumerate(documents):
            by_budget.setdefault(configuration.budget(document.prompt_tokens), []).append(number)
        room = max(document.max_tokens for document in documents)
        records: dict[int, Record] = {}
        for budget in sorted(by_budget):
            pipeline = self._load(configuration, budget, room)
            for number in by_budget[budget]:
                records[number] = _converse(pipeline, documents[number], budget)
                on_progress(len(records) / len(documents))
            # Two models at a time would be too many.
            del pipeline
        return Outcome(configuration, tuple(records[number] for number in range(len(documents))))

    def _load(self, configuration: Configuration, budget: int, room: int) -> LLMPipeline:
        config = configuration.cache_config(budget, self.prefill_factor)
        if configuration.engine == "genai":
            # openvino_genai 2026.4.1 corrupts the heap when a pool of u4 grows: it shall not grow.
            config = dataclasses.replace(config, pool_size=room)
        return LLMPipeline(
            self.model_dir,
            device=self.device,
            config=self.properties,
            kv_cache_config=config,
            max_num_batched_tokens=self.chunk,
            engine=configuration.engine,
            decode_precision=self.decode_precision if configuration.engine == "paged" else SAME,
            prompt_lookup=self.prompt_lookup if configuration.engine == "paged" else 0,
        )


def _document(encoder: PromptEncoder, example: Example) -> Document:
    messages = [
        {"role": role, "content": content}
        for turn in example.turns
        for role, content in zip(("user", "assistant"), turn, strict=True)
    ]

    def count(history: list[dict[str, str]], is_open: bool) -> int:
        return len(encoder.encode(encoder.render(history, add_generation_prompt=is_open)))

    rights = [len(encoder.encode_rest(encoder.plain(right))) for _, right in example.turns]
    return Document(
        example,
        prompt_tokens=count(messages[:1], is_open=True),
        total_tokens=count(messages, is_open=False),
        # Twice the right answer is wrong already, however it would go on.
        answer_limits=tuple(2 * tokens + 16 for tokens in rights),
    )


def _converse(pipeline: LLMPipeline, document: Document, budget: int) -> Record:
    """Ask all questions of one conversation; every answer is followed by the right one."""
    example, answers, peak, num_restarts = document.example, [], 0, 0
    chat = pipeline.chat()
    try:
        for turn, (question, right) in enumerate(example.turns):
            limit = document.answer_limits[turn]
            results = chat.ask(question, do_sample=False, max_new_tokens=limit)
            text, metrics = results.texts[0].strip(), results.metrics[0]
            answers.append(ScoredAnswer(example.kind(turn), text, text == right.strip()))
            peak = max(peak, metrics.kv_bytes_peak)
            num_restarts += bool(metrics.restarted)
            # What was answered wrongly would lead every later question astray.
            chat.replace_messages([*chat.messages[:-1], {"role": "assistant", "content": right}])
    finally:
        chat.close()
    return Record(
        example=example,
        prompt_tokens=document.prompt_tokens,
        budget=budget,
        answers=tuple(answers),
        kv_bytes=metrics.kv_bytes,
        kv_bytes_peak=peak,
        num_restarts=num_restarts,
    )
