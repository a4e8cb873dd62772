"""What every trainer shares: prompts, models, logs, evaluation on dev queries."""
