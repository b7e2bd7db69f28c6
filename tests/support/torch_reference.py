"""A Llama in plain PyTorch whose every layer and KV head may be blind to chosen tokens.

The independent reference for eviction: instead of moving anything, a token that a head has dropped
is masked out for the queries that come after the cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention

Visibility = Sequence[NDArray[np.bool_]]
"""By layer: ``[H, queries, keys]``, whether a KV head shows a key to a query."""


class TorchReference:
    """The model in ``folder``, float32."""

    def __init__(self, folder: Path) -> None:
        self.model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.config = self.model.config

    def causal(self, length: int) -> list[NDArray[np.bool_]]:
        """Everything a causal model shows."""
        shape = (self.config.num_key_value_heads, length, length)
        return [np.tril(np.ones(shape, np.bool_)) for _ in range(self.config.num_hidden_layers)]

    @torch.no_grad()
    def logits(self, tokens: Sequence[int], visibility: Visibility) -> NDArray[np.float32]:
        """``[tokens, vocab]``."""
        core = self.model.model
        hidden = core.embed_tokens(torch.tensor(tokens)[None])
        positions = torch.arange(len(tokens))[None]
        cos, sin = core.rotary_emb(hidden, positions)
        for layer, visible in zip(core.layers, visibility, strict=True):
            normed = layer.input_layernorm(hidden)
            hidden = hidden + self._attention(layer.self_attn, normed, cos, sin, visible)
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        return np.asarray(self.model.lm_head(core.norm(hidden))[0].numpy())

    def _attention(
        self,
        attention: LlamaAttention,
        hidden: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        visible: NDArray[np.bool_],
    ) -> torch.Tensor:
        size = self.config.head_dim
        group = self.config.num_attention_heads // self.config.num_key_value_heads

        def heads(projection: torch.nn.Module) -> torch.Tensor:
            projected: torch.Tensor = projection(hidden)[0]
            return projected.reshape(len(projected), -1, size).transpose(0, 1)

        def rotate(x: torch.Tensor) -> torch.Tensor:
            first, second = x.chunk(2, dim=-1)
            return x * cos[0] + torch.cat((-second, first), dim=-1) * sin[0]

        queries = rotate(heads(attention.q_proj))
        keys = rotate(heads(attention.k_proj)).repeat_interleave(group, dim=0)
        values = heads(attention.v_proj).repeat_interleave(group, dim=0)
        mask = torch.tensor(visible).repeat_interleave(group, dim=0)
        products = queries @ keys.transpose(1, 2) / size**0.5
        weights = products.masked_fill(~mask, -torch.inf).softmax(dim=-1)
        read = (weights @ values).transpose(0, 1).flatten(1)
        projected: torch.Tensor = attention.o_proj(read[None])
        return projected
