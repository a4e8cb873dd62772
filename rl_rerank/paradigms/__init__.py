"""Ways of asking a model to rank: one module each, found by name through `rl_rerank.paradigm` entry points."""
