"""Policies and losses that need no sampled text."""
