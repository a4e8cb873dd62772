"""Ranking the candidates of queries with a paradigm and an engine."""
