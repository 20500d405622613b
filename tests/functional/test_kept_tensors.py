from contextlib import AbstractContextManager

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from laws import draw, refuses
from vitreg import StateError
from vitreg.functional.kept_tensors import kept_by_itself


def around() -> AbstractContextManager[object]:
    """Return a context like that of a checkpoint, which keeps nothing."""

    def lost(_: object) -> torch.Tensor:
        raise AssertionError("a checkpoint's tensor was asked for")

    return torch.autograd.graph.saved_tensors_hooks(lambda tensor: None, lost)


def test_within_a_checkpoint_that_runs_again_without_it() -> None:
    x = draw(0, 3, 4).requires_grad_()
    reads = [True]
    values = []

    def block(x: torch.Tensor) -> torch.Tensor:
        hidden = x.exp()
        if reads[0]:
            with kept_by_itself():
                values.append((hidden * x).sin().sum())
        return hidden.square()

    output = checkpoint(block, x, use_reentrant=False)
    reads[0] = False
    (output.sum() + values[0]).backward()
    y = x.detach().double().requires_grad_()
    (y.exp().square().sum() + (y.exp() * y).sin().sum()).backward()
    torch.testing.assert_close(x.grad.double(), y.grad, rtol=1e-4, atol=1e-5)


def test_a_tensor_that_is_changed_afterwards_is_refused() -> None:
    x = draw(0, 3, 4).requires_grad_()
    hidden = x * 2
    with around(), kept_by_itself():
        value = hidden.square().sum()
    with torch.no_grad():
        hidden.mul_(2)
    with refuses(StateError, "[3, 4]", "changed in place", "Read block_output"):
        value.backward()


def test_second_derivatives() -> None:
    x = draw(0, 5).requires_grad_()
    with around(), kept_by_itself():
        value = x.pow(3).sum()
    (first,) = torch.autograd.grad(value, x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(second, 6 * x.detach())


def test_nothing_is_kept_without_gradients() -> None:
    with torch.no_grad(), kept_by_itself():
        assert not (draw(0, 3).requires_grad_() * 2).requires_grad


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_in_a_compiled_function() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        with kept_by_itself():
            return (x * x).sum()

    x = draw(0, 4).requires_grad_()
    torch.compile(function, backend="eager", fullgraph=True)(x).backward()
    torch.testing.assert_close(x.grad, 2 * x.detach())


def test_in_a_transform_of_torch_func() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        with kept_by_itself():
            return x.pow(3).sum()

    x = draw(0, 4)
    torch.testing.assert_close(torch.func.grad(function)(x), 3 * x.square())
