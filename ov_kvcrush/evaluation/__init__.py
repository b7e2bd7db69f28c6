"""How many answers stay right under a policy, a budget and a precision of the KV cache."""
