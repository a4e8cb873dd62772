"""The average stage."""
