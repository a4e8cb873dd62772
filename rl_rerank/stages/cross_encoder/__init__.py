"""The cross_encoder stage."""
