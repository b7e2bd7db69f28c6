"""``/v1/responses``: OpenAI's newer API, without anything that a server would have to keep."""
