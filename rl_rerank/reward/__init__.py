"""Rewards: the protocol, and tools for writing them."""
