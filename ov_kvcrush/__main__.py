"""``python -m ov_kvcrush``: the command ``ov-kvcrush`` where its script is not on the path."""

from ov_kvcrush.cli import main

if __name__ == "__main__":  # child processes import this module again
    main()
