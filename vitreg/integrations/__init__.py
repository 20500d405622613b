"""Guides for other people's training loops; each file imports its library, and nothing imports the files."""
