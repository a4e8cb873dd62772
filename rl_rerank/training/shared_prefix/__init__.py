"""Computing a prompt once for all its completions."""
