"""From messages to the token ids of a prompt."""
