"""An HTTP server for one exported model: `rl-rerank serve model=DIR`."""
