"""The endpoint: OpenAI's API over HTTP, in front of one :class:`AsyncLLMPipeline`."""
