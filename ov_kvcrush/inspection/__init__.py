"""What a model folder, a KV plan or a session file is: told by its files, nothing is compiled."""
