"""Where examples come from: one module for each format."""
