"""Ranking losses: plugins under the entry point `rl_rerank.loss`. What they share is in `base`."""
