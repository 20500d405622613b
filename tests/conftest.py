from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from small_models import TOWERS, Factory, make_clip, make_vit

pytest_plugins = ["picture_fixtures"]

if "PYTEST_XDIST_WORKER" in os.environ:  # several test processes: one thread each, and for what they start
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--runslow", action="store_true", help="run the slow tests, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the slow tests unless they are asked for, or one is named."""
    if config.getoption("--runslow") or any("::" in argument for argument in config.args):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow:
        items[:] = [item for item in items if not item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    """Draw every test's weights and images from the same state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def vit() -> Factory:
    """Return a factory of small timm Vision Transformers; options are those of the class."""
    return make_vit


@pytest.fixture
def clip() -> Factory:
    """Return a factory of small open_clip models; options are those of the vision tower."""
    return make_clip


@pytest.fixture(params=sorted(TOWERS))
def tower_model(request: pytest.FixtureRequest) -> nn.Module:
    """Return one small Vision Transformer of each library after the other, in training mode."""
    return TOWERS[request.param]().train()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 3, 32, 32)


@pytest.fixture
def perturb() -> Callable[[nn.Module], None]:
    """Return a function that moves every parameter a little, as training does."""

    def move(model: nn.Module) -> None:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)

    return move


@pytest.fixture
def pair(vit: Factory, perturb: Callable[[nn.Module], None]) -> tuple[nn.Module, nn.Module]:
    """Return a model and the source that it has moved away from."""
    source = vit()
    model = copy.deepcopy(source).train()
    perturb(model)
    return model, source


@pytest.fixture
def everything_can_be_drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Draw each figure that a test makes, as a notebook would."""
    from matplotlib.figure import Figure

    made: list[Figure] = []
    init = Figure.__init__

    def keep(self: Figure, *args: object, **options: object) -> None:
        init(self, *args, **options)
        made.append(self)

    monkeypatch.setattr(Figure, "__init__", keep)
    yield
    for figure in made:
        if figure.axes:
            figure.canvas.draw()
