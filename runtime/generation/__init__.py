"""One request and what is generated for it: settings, sampling, stopping, and what it cost."""
