"""First-party rewards, free of torch."""
