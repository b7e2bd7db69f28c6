"""What inspect shows: of a model or its plan, and of a session."""
