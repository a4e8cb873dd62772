"""Export, and ranking with an exported model."""
