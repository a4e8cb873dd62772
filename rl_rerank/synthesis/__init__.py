"""Data synthesis: the runner of steps, what it writes, and the data card. The steps themselves are plugins."""
