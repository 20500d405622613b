"""Runs: planned, computed once, stored whole."""
