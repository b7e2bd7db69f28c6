"""The page at ``/``: what the pool holds, who runs, and one chat."""
