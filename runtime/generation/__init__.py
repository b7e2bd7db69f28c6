"""One request and what is generated for it: settings, drafts, sampling, stopping, and its costs."""
