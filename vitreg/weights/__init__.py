"""The tensors of a file of weights, whoever wrote it: the one reader of checkpoints."""

from vitreg.weights.content import check_archive, nothing_executed
from vitreg.weights.misfits import misfits
from vitreg.weights.reading import PREFIXES, WRAPPERS, finite, read_weights

__all__ = ["PREFIXES", "WRAPPERS", "check_archive", "finite", "misfits", "nothing_executed", "read_weights"]
