"""The linear probe: a classifier of frozen features, and as the head that fine-tuning starts from."""
