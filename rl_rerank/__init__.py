"""Reinforcement-learning post-training of LLM rerankers."""

__version__ = "0.1.0"
