"""What a table compares, and its runs on one machine or on a cluster."""
