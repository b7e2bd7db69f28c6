"""What a suite's run shows: tables, JSON values, CSV, and a page to read."""
