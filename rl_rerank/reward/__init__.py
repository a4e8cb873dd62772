"""Rewards: the protocol, and the tools for whoever writes one."""
