import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vitreg
from laws import num_hooks, unchanged
from small_models import make_vit
from vitreg.hooks import Hooks
from vitreg.types import Tap


class Scaled(nn.Module):
    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return x * scale


def test_taps_deliver_what_enters_and_what_leaves() -> None:
    module, seen = Scaled(), []
    hooks = Hooks([(Tap(module, "input"), seen.append), (Tap(module, "output"), seen.append)])
    x = torch.ones(2)
    y = module(x, scale=3.0)
    (args, kwargs), output = seen
    assert args[0] is x
    assert kwargs == {"scale": 3.0}
    assert output is y
    hooks.remove()
    module(x)
    assert len(seen) == 2


def test_nothing_is_changed_by_a_receiver_that_returns_something() -> None:
    module, x = Scaled(), torch.ones(2)
    Hooks([(Tap(module, "input"), lambda _: "other"), (Tap(module, "output"), lambda _: "other")])
    assert torch.equal(module(x), x)


def test_removed_once_and_for_all() -> None:
    module = nn.Sequential(Scaled(), Scaled())
    with unchanged(module):
        hooks = Hooks([(Tap(m, side), print) for m in module for side in ("input", "output")])
        assert num_hooks(module) == 4
        hooks.remove()
        hooks.remove()


def test_hooks_of_others_stay() -> None:
    module, seen = Scaled(), []
    module.register_forward_hook(lambda *_: seen.append("theirs"))
    Hooks([(Tap(module), print)]).remove()
    module(torch.ones(1))
    assert seen == ["theirs"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_all_or_nothing(error: type[BaseException]) -> None:
    module = nn.Sequential(Scaled(), Scaled())

    def receivers() -> Any:
        yield Tap(module[0]), print
        yield Tap(module[1], "input"), print
        raise error

    with unchanged(module), pytest.raises(error):
        Hooks(receivers())


def by_pickle(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, by_pickle])
def test_a_copy_delivers_nothing(duplicate: Callable[[nn.Module], nn.Module]) -> None:
    module, seen = Scaled(), []
    Hooks([(Tap(module, "input"), seen.append), (Tap(module), seen.append)])
    twin = duplicate(module)
    assert torch.equal(twin(torch.ones(2), scale=2.0), torch.full((2,), 2.0))
    assert seen == []
    module(torch.ones(2))
    assert len(seen) == 2


@pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated:FutureWarning")
def test_script_and_fx_say_what_to_do(images: Tensor) -> None:
    model = make_vit().train()
    with vitreg.attach(model):
        assert not any(hasattr(hook, "__name__") for hook in model.patch_embed._forward_pre_hooks.values())
        with pytest.raises(vitreg.StateError, match=r"jit.script needs .* attachment.remove\(\) first"):
            torch.jit.script(model)
        with pytest.raises(vitreg.StateError, match=r"torch.fx needs .* attachment.remove\(\) first"):
            torch.fx.Tracer().trace(nn.Sequential(model.patch_embed))
        exported = torch.export.export(model, (images,))
        torch.testing.assert_close(exported.module()(images), model(images))
