"""Files, subprocesses and the formats of TREC."""
