"""Kinds of stage of one's own."""
