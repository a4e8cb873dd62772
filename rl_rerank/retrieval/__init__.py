"""First stages that search a collection with embeddings."""
