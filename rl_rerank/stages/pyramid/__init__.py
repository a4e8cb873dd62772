"""The pyramid stage."""
