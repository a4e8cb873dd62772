"""GRPO on sampled completions: a narrow subclass of trl's trainer and its parts."""
