"""Kinds of engine of one's own."""
