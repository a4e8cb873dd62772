"""Tools for whoever writes a reward: list, check, replay, new."""
