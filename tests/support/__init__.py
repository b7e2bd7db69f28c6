"""What many tests share: models, engines, prompts, processes, damaged files, references."""
