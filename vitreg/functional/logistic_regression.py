"""Multinomial logistic regression on features, and the folds in which its weight decay is chosen."""

from __future__ import annotations

import torch
from torch import Tensor

from vitreg.errors import ArgumentError, StateError
from vitreg.functional.precision import without_autocast

TOLERANCE = 1e-6
"""The largest element of the gradient, in rescaled coordinates, at which the minimum counts as found."""

STEPS = (30, 60, 100, 200, 400, 800, 1600)
"""After how many steps L-BFGS starts anew from where it is."""


def logistic_regression(
    features: Tensor, labels: Tensor, *, weight_decay: float, num_classes: int, has_bias: bool = True
) -> tuple[Tensor, Tensor]:
    r"""Return weight [c, d] and bias [c] of the multinomial logistic regression on `features`.

    $$\min_{W, b} \; -\frac{1}{n} \sum_i \log \operatorname{softmax}(W z_i + b)_{y_i}
    + \frac{\lambda}{2} \lVert W \rVert^2, \quad z = \frac{f - \mu}{\sigma}$$

    The features are standardised by their own mean and standard deviation, which are folded back into what
    is returned: `features @ weight.T + bias` are the logits. A feature that is constant up to the rounding of
    its type has the weight 0. The problem is convex with one minimum, up to a constant that all biases share
    and that is chosen so that they sum to 0 on standardised features. It is found by L-BFGS in float64, in
    coordinates in which the Hessian is at most 1 (Böhning's bound), so it takes tens of steps. The same
    arguments give the same bits.

    Args:
        features: one row a picture, [n, d].
        labels: class indices, [n].
        weight_decay: λ, above 0; it acts on the weights of standardised features, not on the bias.
        num_classes: c.
        has_bias: without, nothing is subtracted from the features and the bias is 0.

    Returns:
        weight and bias in float64, on the device of `features`.

    Raises:
        ArgumentError: features or labels have a wrong shape, type or value, or a class has no picture.
        StateError: the minimum was not reached.

    Source: Liu and Nocedal 1989, "On the limited memory BFGS method for large scale optimization".
    """
    check_labelled_features(features, labels, num_classes)
    if isinstance(weight_decay, bool) or not 0 < weight_decay < float("inf"):
        raise ArgumentError(f"weight_decay must be a number above 0, got {weight_decay!r}.")
    with torch.no_grad(), without_autocast(features):
        mean, inverse_deviation = _standardisation(features, centred=has_bias)
        rows = (features.double() - mean) * inverse_deviation
        basis = _row_space(rows)
        inputs, decay = rows @ basis, rows.new_full((basis.shape[1],), weight_decay)
        if has_bias:
            inputs = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1)
            decay = torch.cat([decay, decay.new_zeros(1)])
        solution = _minimum(inputs, labels.to(inputs.device), decay, num_classes)
        bias = solution[:, -1] if has_bias else solution.new_zeros(num_classes)
        weight = solution[:, : basis.shape[1]] @ basis.T * inverse_deviation
        return weight, bias - weight @ mean


def stratified_folds(labels: Tensor, num_folds: int) -> Tensor:
    """Return the number of the fold, 0 … num_folds - 1, in which each picture is held out, [n].

    Each class is cut into runs of neighbouring pictures, so that pictures that follow each other and look
    alike (frames of a film, shots of one object) mostly stay together. A class's parts differ by at most one
    picture, and so do the folds.

    Args:
        labels: class indices, [n].
        num_folds: at least 2, and at most the pictures of the smallest class.

    Raises:
        ArgumentError: there are fewer pictures of a class than folds, or fewer than two folds.
    """
    smallest = int(labels.unique(return_counts=True)[1].min()) if len(labels) else 0
    if not 2 <= num_folds <= smallest:
        raise ArgumentError(
            f"num_folds must be from 2 to the pictures of the smallest class, {smallest}, got {num_folds!r}."
        )
    folds = torch.empty_like(labels)
    first = 0  # the fold that gets the first of the pictures that are left over, one class after the other
    for label in labels.unique():
        members = (labels == label).nonzero().squeeze(1)
        size, left_over = divmod(len(members), num_folds)
        sizes = [size + ((fold - first) % num_folds < left_over) for fold in range(num_folds)]
        numbers = torch.arange(num_folds, device=labels.device, dtype=labels.dtype)
        folds[members] = numbers.repeat_interleave(torch.tensor(sizes, device=labels.device))
        first = (first + left_over) % num_folds
    return folds


def check_labelled_features(features: Tensor, labels: Tensor, num_classes: int) -> None:
    """Raise `ArgumentError` unless there is a finite row and a class for each picture, and all classes."""
    if features.dim() != 2 or not features.is_floating_point():
        raise ArgumentError(f"features must be [n, d], got {list(features.shape)} of {features.dtype}.")
    if labels.shape != features.shape[:1] or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ArgumentError(
            f"labels must be class indices, one for each of {len(features)} rows of features, got "
            f"{list(labels.shape)} of {labels.dtype}. Turn mixup, CutMix and one-hot labels off."
        )
    if not bool(features.isfinite().all()):
        raise ArgumentError("features must be finite, found inf or nan. Read them in a higher precision.")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ArgumentError(
            f"labels must be from 0 to {num_classes - 1} for {num_classes} classes, found some from "
            f"{int(labels.min())} to {int(labels.max())}. Give the model a head with one output a class "
            "(timm: num_classes=…)."
        )
    missing = (torch.bincount(labels, minlength=num_classes) == 0).nonzero().squeeze(1).tolist()
    if missing or num_classes < 2:
        shown = ", ".join(map(str, missing[:5])) + (", …" if len(missing) > 5 else "")
        raise ArgumentError(
            f"Expected pictures of each of {num_classes} classes and at least two classes, found none of "
            f"{len(missing)} ({shown}). Give the model a head with as many outputs as there are classes "
            "(timm: num_classes=…), or add pictures."
        )


def _standardisation(features: Tensor, *, centred: bool) -> tuple[Tensor, Tensor]:
    """Return what is subtracted from each feature and what it is multiplied by afterwards, each [d]."""
    f = features.double()
    mean = f.mean(0)
    deviation = (f - mean).square().mean(0).sqrt()
    rounding = 4 * torch.finfo(features.dtype).eps * f.abs().amax(0)
    inverse = torch.where(deviation > rounding, 1 / deviation, 0.0)
    return (mean if centred else torch.zeros_like(mean)), inverse


def _row_space(rows: Tensor) -> Tensor:
    """Return an orthonormal basis [d, r] of a space that holds all rows, of at most n dimensions.

    A decayed solution has no part outside of it, and few pictures make a small problem of a wide one.
    """
    n, d = rows.shape
    if n < d:
        return torch.linalg.svd(rows, full_matrices=False).Vh.T
    return torch.eye(d, dtype=rows.dtype, device=rows.device)


def _minimum(inputs: Tensor, labels: Tensor, decay: Tensor, num_classes: int) -> Tensor:
    """Return the weights [c, r] at which cross-entropy plus decay [r] is smallest, or raise `StateError`.

    L-BFGS needs as many steps as the Hessian is uneven. It runs in coordinates in which the classes' mean
    Hessian, as it was at the last start, is the identity, and starts anew there as long as it is not done.
    """
    weights = inputs.new_zeros(num_classes, inputs.shape[1])
    one_hot = torch.nn.functional.one_hot(labels.long(), num_classes).to(inputs)
    largest = float("inf")
    for num_steps in STEPS:
        shares = (inputs @ weights.T).softmax(1)
        curvature = (1 - shares.square().sum(1, keepdim=True)) / num_classes
        hessian = (curvature * inputs).T @ inputs / len(inputs) + decay.diag()
        hessian += 1e-12 * hessian.diagonal().max() * torch.eye(len(decay)).to(hessian)  # no step is endless
        factor = torch.linalg.cholesky(hessian)
        back = torch.linalg.inv(factor)
        start, largest = _steps(weights @ factor, inputs @ back.T, one_hot, back, decay, num_steps)
        weights = start @ back
        if largest <= TOLERANCE:
            return weights
    raise StateError(
        f"Expected logistic regression to converge in {sum(STEPS)} steps, found a gradient of {largest:.2g}. "
        "Take a larger weight decay."
    )


def _steps(
    start: Tensor, inputs: Tensor, one_hot: Tensor, back: Tensor, decay: Tensor, num_steps: int
) -> tuple[Tensor, float]:
    """Return where L-BFGS comes to from `start` [c, r], and the largest element of the gradient there.

    `start` and `inputs` are in the coordinates that the matrix `back` [r, r] leads out of; `decay` is not.
    """
    turned = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [turned],
        max_iter=num_steps,
        history_size=20,
        tolerance_grad=TOLERANCE,
        tolerance_change=1e-16,
        line_search_fn="strong_wolfe",
    )

    @torch.no_grad()
    def closure() -> Tensor:
        log_shares, weights = (inputs @ turned.T).log_softmax(1), turned @ back
        turned.grad = (log_shares.exp() - one_hot).T @ inputs / len(inputs) + (decay * weights) @ back.T
        return -(log_shares * one_hot).sum(1).mean() + (decay * weights.square()).sum() / 2

    optimizer.step(closure)
    closure()
    assert turned.grad is not None
    return turned.detach(), float(turned.grad.abs().max())
