"""Stages: one module each, with `run(config, name, stage)`."""
