"""Doors: the programs that load an exported folder, each of which answers golden entries."""
