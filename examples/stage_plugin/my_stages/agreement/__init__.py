"""The stage `agreement`."""
