"""The drawn world in which every table runs without data, and its pre-trained sources."""
