"""The frozen pre-trained model: a copy, one that remembers, or the base below its adapters."""
