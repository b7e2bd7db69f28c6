"""The Hugging Face model: where it is, what its weight files hold, and what it will weigh."""
