"""Answers in other forms than the one asked for: what one says plainly is read, and nothing is guessed."""
