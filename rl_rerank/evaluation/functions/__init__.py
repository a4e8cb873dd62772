"""Analyses that are not a measure of a single run."""
