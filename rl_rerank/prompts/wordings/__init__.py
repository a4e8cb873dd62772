"""The words of prompts, one file a wording, and what reads and renders them."""
