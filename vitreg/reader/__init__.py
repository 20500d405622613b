"""Hooks on one tower that keep what is wanted of each pass."""

from vitreg.reader.forward_pass import ForwardPass
from vitreg.reader.thread_passes import WITHOUT_GRADIENTS
from vitreg.reader.tower_call import ALONE, as_called, draws_numbers, matters, tensors_in
from vitreg.reader.tower_reader import Reader, ReadingComplete, readers
from vitreg.reader.wanted_value import check_taps

__all__ = [
    "ALONE",
    "WITHOUT_GRADIENTS",
    "ForwardPass",
    "Reader",
    "ReadingComplete",
    "as_called",
    "check_taps",
    "draws_numbers",
    "matters",
    "readers",
    "tensors_in",
]
