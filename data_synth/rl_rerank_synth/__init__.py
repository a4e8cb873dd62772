"""The data-synthesis steps."""
