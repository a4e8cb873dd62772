"""Token sequences that share beginnings, computed as one row: each shared token once, no padding."""
