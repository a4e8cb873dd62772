"""An experiment: composed, validated, run, and its state on disk."""
