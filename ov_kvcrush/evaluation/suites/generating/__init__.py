"""What generated suites are made of: prose, words, values, places in a text, and lengths."""
