"""Pre-trained weights, and models that were stored."""
