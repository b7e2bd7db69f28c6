"""What a Python program uses: pipelines, chats, cached prefixes, and their saving."""
