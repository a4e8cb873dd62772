"""Training: SFT and GRPO on trl."""
