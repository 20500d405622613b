"""A model's weights: where each started, which are a new head, and which are trained."""
