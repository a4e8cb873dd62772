"""Engines that answer prompts: scripted, transformers, vLLM."""
