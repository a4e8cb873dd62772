"""Engines behind a server."""
