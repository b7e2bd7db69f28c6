"""What can be asked of any model: suites of conversations over a context, each a folder or file."""
