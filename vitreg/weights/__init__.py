"""The tensors of a file of weights, whoever wrote it: the one reader of checkpoints."""

from vitreg.weights.reading import PREFIXES, WRAPPERS, finite, read_weights

__all__ = ["PREFIXES", "WRAPPERS", "finite", "read_weights"]
