"""From the IR to logits: the paged graph, its parts, and the batches they compute."""
