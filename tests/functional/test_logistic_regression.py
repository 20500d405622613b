import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from laws import draw, refuses
from vitreg import ArgumentError
from vitreg.functional import logistic_regression, stratified_folds


def drawn(seed: int, *, n: int = 40, d: int = 6, c: int = 3) -> tuple[Tensor, Tensor]:
    """Return features of different sizes and places, and labels that depend on them; all classes occur."""
    labels = torch.arange(n) % c
    features = draw(seed, n, d) + 0.7 * draw(seed + 1, c, d)[labels]
    return features * torch.logspace(-2, 2, d) + 10 * draw(seed + 2, d), labels


def literal_newton(
    features: Tensor, labels: Tensor, decay: float, c: int, *, has_bias: bool = True
) -> Tensor:
    """Return the logits at the minimum, by Newton's method with loops over pictures and classes."""
    rows = [[float(value) for value in row] for row in features]
    n, d = len(rows), len(rows[0])
    means = [sum(row[j] for row in rows) / n for j in range(d)]
    deviations = [math.sqrt(sum((row[j] - means[j]) ** 2 for row in rows) / n) for j in range(d)]
    z = [[(row[j] - (means[j] if has_bias else 0)) / deviations[j] for j in range(d)] for row in rows]
    z = torch.tensor([[*row, 1.0 if has_bias else 0.0] for row in z], dtype=torch.float64)
    w = torch.zeros(c, d + 1, dtype=torch.float64)
    for _ in range(60):
        gradient = torch.zeros(c, d + 1, dtype=torch.float64)
        hessian = torch.zeros(c, d + 1, c, d + 1, dtype=torch.float64)
        for i in range(n):
            exps = [math.exp(float(z[i] @ w[k])) for k in range(c)]
            p = [e / sum(exps) for e in exps]
            for k in range(c):
                gradient[k] += (p[k] - (k == int(labels[i]))) * z[i] / n
                for m in range(c):
                    hessian[k, :, m] += p[k] * ((k == m) - p[m]) * torch.outer(z[i], z[i]) / n
        for k in range(c):
            for j in range(d):
                gradient[k, j] += decay * w[k, j]
                hessian[k, j, k, j] += decay
        flat = hessian.reshape(c * (d + 1), -1)
        step = torch.linalg.lstsq(flat, gradient.flatten(), driver="gelsd").solution  # one direction is free
        w -= step.reshape(c, d + 1)
        if step.abs().max() < 1e-10:
            break
    return z @ w.T


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("decay", [0.3, 0.01])
def test_it_is_the_minimum_of_newtons_method(decay: float, has_bias: bool) -> None:
    features, labels = drawn(0)
    weight, bias = logistic_regression(features, labels, weight_decay=decay, num_classes=3, has_bias=has_bias)
    logits = features.double() @ weight.T + bias
    expected = literal_newton(features, labels, decay, 3, has_bias=has_bias)
    torch.testing.assert_close(logits.log_softmax(1), expected.log_softmax(1), rtol=1e-3, atol=1e-3)
    assert has_bias or torch.equal(bias, torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize("d", [6, 100], ids=["tall", "wide"])
def test_the_gradient_vanishes(d: int) -> None:
    features, labels = drawn(3, d=d)
    features = features.double()
    weight, bias = logistic_regression(features, labels, weight_decay=1e-3, num_classes=3)
    assert weight.dtype == bias.dtype == torch.float64
    deviation = features.std(0, unbiased=False)
    z = (features - features.mean(0)) / deviation
    w = (weight * deviation).requires_grad_()
    b = (bias + weight @ features.mean(0)).requires_grad_()
    loss = torch.nn.functional.cross_entropy(z @ w.T + b, labels) + 1e-3 / 2 * w.square().sum()
    for gradient in torch.autograd.grad(loss, (w, b)):
        assert gradient.abs().max() < 1e-6
    torch.testing.assert_close(b.detach().sum(), torch.zeros((), dtype=torch.float64), rtol=0, atol=1e-6)


def test_scale_and_place_of_the_features_do_not_matter() -> None:
    features, labels = drawn(5)
    weight, bias = logistic_regression(features, labels, weight_decay=0.01, num_classes=3)
    moved = features.double() * 3 + 7
    other, constant = logistic_regression(moved, labels, weight_decay=0.01, num_classes=3)
    torch.testing.assert_close(
        moved @ other.T + constant, features.double() @ weight.T + bias, atol=1e-3, rtol=1e-3
    )


def test_twice_the_same_bits_whatever_the_autocast() -> None:
    features, labels = drawn(7)
    once = logistic_regression(features, labels, weight_decay=1e-3, num_classes=3)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        again = logistic_regression(features, labels, weight_decay=1e-3, num_classes=3)
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


def test_constant_features_have_no_weight() -> None:
    features, labels = drawn(9)
    features[:, 2] = 1 / 3
    features[:, 4] = 1000 + 1e-4 * draw(0, len(features))  # constant, up to rounding
    weight, bias = logistic_regression(features, labels, weight_decay=1e-3, num_classes=3)
    assert not weight[:, [2, 4]].any()
    rest, constant = logistic_regression(features[:, [0, 1, 3, 5]], labels, weight_decay=1e-3, num_classes=3)
    torch.testing.assert_close(weight[:, [0, 1, 3, 5]], rest, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(bias, constant, rtol=1e-3, atol=1e-3)


def test_a_separable_set_with_little_decay_converges() -> None:
    labels = torch.arange(60) % 20
    features = draw(0, 20, 50)[labels] * 5 + draw(1, 60, 50)
    weight, bias = logistic_regression(features, labels, weight_decay=1e-4, num_classes=20)
    assert torch.equal((features.double() @ weight.T + bias).argmax(1), labels)


def test_bad_input() -> None:
    features, labels = drawn(0)

    def fit(f: Tensor = features, y: Tensor = labels, decay: object = 0.1, c: int = 3) -> None:
        logistic_regression(f, y, weight_decay=decay, num_classes=c)

    for wrong in (0, -1.0, float("nan"), float("inf"), True):
        with refuses(ArgumentError, "weight_decay must be a number above 0", repr(wrong)):
            fit(decay=wrong)
    with refuses(ArgumentError, "features must be [n, d]", "[240]"):
        fit(features.flatten())
    with refuses(ArgumentError, "features must be finite", "higher precision"):
        fit(features / 0)
    with refuses(ArgumentError, "labels must be class indices", "[40, 3]", "one-hot"):
        fit(y=torch.nn.functional.one_hot(labels))
    with refuses(ArgumentError, "one for each of 40 rows", "[39]"):
        fit(y=labels[:-1])
    with refuses(ArgumentError, "labels must be from 0 to 1 for 2 classes", "from 0 to 2", "num_classes"):
        fit(c=2)
    with refuses(ArgumentError, "from 0 to 2", "from -1 to 2"):
        fit(y=labels.where(labels != 1, -1))
    with refuses(ArgumentError, "each of 5 classes", "none of 2 (3, 4)", "num_classes"):
        fit(c=5)
    with refuses(ArgumentError, "at least two classes"):
        fit(y=torch.zeros_like(labels), c=1)


@given(
    sizes=st.lists(st.integers(2, 9), min_size=2, max_size=5),
    num_folds=st.integers(2, 5),
    seed=st.integers(0, 9),
)
def test_folds(sizes: list[int], num_folds: int, seed: int) -> None:
    num_folds = min(num_folds, min(sizes))
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    folds = stratified_folds(labels, num_folds)
    counts = torch.zeros(len(sizes), num_folds, dtype=torch.long)
    for label, fold in zip(labels.tolist(), folds.tolist(), strict=True):
        counts[label, fold] += 1
    assert bool((counts > 0).all())
    for per_fold in (*counts, counts.sum(0)):
        assert per_fold.max() - per_fold.min() <= 1
    for label in range(len(sizes)):
        own = folds[labels == label]
        assert torch.equal(own, own.sort().values), "neighbours stay together"
    assert torch.equal(folds, stratified_folds(labels, num_folds))


def test_folds_of_too_few_pictures() -> None:
    labels = torch.tensor([0, 0, 1, 1, 1])
    for wrong in (1, 3):
        with refuses(ArgumentError, "num_folds must be from 2 to", "2", f"got {wrong}"):
            stratified_folds(labels, wrong)
