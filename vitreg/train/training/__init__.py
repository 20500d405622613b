"""The training loop, its methods and its measurements."""
