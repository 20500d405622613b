"""Penalties attached to a model: what is read on both sides, how it is lined up, what it costs."""
