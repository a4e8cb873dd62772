"""Data synthesis: the runner of steps, its outputs, and the data card. The steps are plugins."""
