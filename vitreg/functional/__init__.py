"""Pure functions from tensors to tensors: the formulas of the methods, and nothing of any model."""

from vitreg.functional.attention_share import attention_share, box_on_grid, object_masks, patch_coverage
from vitreg.functional.logistic_regression import logistic_regression, stratified_folds
from vitreg.functional.logits import absorbed_key_logits, cls_row, mean_row, project_row, query_key_logits
from vitreg.functional.parameter_distance import half_squared_norm
from vitreg.functional.rollout import attention_rollout
from vitreg.functional.shifts import Shifts, shrinkage
from vitreg.functional.similarity import linear_cka, shared_neighbours
from vitreg.functional.spectrum import smallest_squared_singular_values
from vitreg.functional.squared_distance import cross_entropy_with, kl_divergence, squared_distance

__all__ = [
    "Shifts",
    "absorbed_key_logits",
    "attention_rollout",
    "attention_share",
    "box_on_grid",
    "cls_row",
    "cross_entropy_with",
    "half_squared_norm",
    "kl_divergence",
    "linear_cka",
    "logistic_regression",
    "mean_row",
    "object_masks",
    "patch_coverage",
    "project_row",
    "query_key_logits",
    "shared_neighbours",
    "shrinkage",
    "smallest_squared_singular_values",
    "squared_distance",
    "stratified_folds",
]
