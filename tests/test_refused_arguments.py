"""Arguments of `attach` that cannot be meant are refused, and nothing is changed on the model."""

import pytest
import torch
from torch import Tensor, nn

import vitreg
from laws import refuses, unchanged
from vitreg import (
    GTA,
    ArgumentError,
    FeatureGuide,
)


@pytest.fixture
def model(vit: object) -> nn.Module:
    return vit().train()


# lam, target, layers, query, reduction


@pytest.mark.parametrize("lam", [-1, -1e-9, float("nan"), float("inf"), "1", True, [1.0], 1j], ids=str)
def test_wrong_lam(model: nn.Module, lam: object) -> None:
    with unchanged(model), refuses(ArgumentError, "lam must be", "got", repr(lam)):
        vitreg.attach(model, lam=lam)


@pytest.mark.parametrize("digits", [400, 9999])
def test_a_lam_larger_than_any_float(model: nn.Module, digits: int) -> None:
    for call in (
        lambda lam: vitreg.attach(model, lam=lam),
        lambda lam: vitreg.GTA(lam=lam),
        lambda lam: vitreg.L2SP(head=lam),
    ):
        with unchanged(model), refuses(ArgumentError, "finite and at least 0", "larger than any float"):
            call(10**digits)


@pytest.mark.parametrize(
    "value",
    [-1.0, float("nan"), "1", None, lambda step: 1.0],
    ids=lambda value: type(value).__name__ + str(value)[:4],
)
def test_a_function_that_returns_no_weight(model: nn.Module, images: Tensor, value: object) -> None:
    with unchanged(model):
        with vitreg.attach(model, lam=lambda step: value) as attachment:
            model(images)
            with refuses(ArgumentError, "lam", "step 0"):
                attachment.penalty()
            assert attachment.step == 0
        with vitreg.attach(model, target=GTA(lam=lambda step: value)) as attachment:
            model(images)
            with refuses(ArgumentError, "gta's lam", "step 0"):
                attachment.penalty()


@pytest.mark.parametrize(
    ("target", "nearest"),
    [
        ("attn_logit", "attn_logits"),
        ("atn_probs", "attn_probs"),
        ("msa_outputs", "msa_output"),
        ("bbs", "bss"),
    ],
)
def test_unknown_target(model: nn.Module, target: str, nearest: str) -> None:
    with unchanged(model), refuses(ArgumentError, repr(target), f"Did you mean {nearest!r}?"):
        vitreg.attach(model, target=target)


@pytest.mark.parametrize("target", [[], {}, None, 3, GTA, [GTA], ["attn_logits", 3], {"": "bss"}], ids=str)
def test_wrong_target(model: nn.Module, target: object) -> None:
    with unchanged(model), refuses(ArgumentError):
        vitreg.attach(model, target=target)


def test_two_penalties_of_one_name(model: nn.Module) -> None:
    with unchanged(model), refuses(ArgumentError, "Two penalties", "'gta'", "target={"):
        vitreg.attach(model, target=[GTA(layers=0), GTA(layers=1)])


@pytest.mark.parametrize("layers", [3, -4, [0, 3], [99]], ids=str)
@pytest.mark.parametrize("as_penalty", [False, True])
def test_layers_out_of_range(model: nn.Module, layers: object, as_penalty: bool) -> None:
    options = {"target": GTA(layers=layers)} if as_penalty else {"layers": layers}
    with unchanged(model), refuses(ArgumentError, "layers must lie between -3 and 2", "3 blocks", "got"):
        vitreg.attach(model, **options)


@pytest.mark.parametrize("layers", [[], (), slice(3, None), range(0)], ids=str)
def test_no_layers(model: nn.Module, layers: object) -> None:
    with unchanged(model), refuses(ArgumentError, repr(layers), "selects none", "3 blocks"):
        vitreg.attach(model, layers=layers)


@pytest.mark.parametrize("layers", ["last", 1.5, True, {0}, [None], slice("a")], ids=str)
def test_wrong_layers(model: nn.Module, layers: object) -> None:
    with unchanged(model), refuses(ArgumentError, "layers", "indices, a slice, 'all' or 'spread'", "got"):
        vitreg.attach(model, layers=layers)


@pytest.mark.parametrize(
    ("option", "known"), [("query", "'cls', 'mean'"), ("reduction", "'mean', 'sum_layers', 'sum'")]
)
@pytest.mark.parametrize("wrong", ["best", 3, ["cls"]], ids=str)
def test_wrong_query_or_reduction(model: nn.Module, option: str, known: str, wrong: object) -> None:
    for target in ("attn_logits", "msa_output", "gta"):
        with unchanged(model), refuses(ArgumentError, f"{option} must be one of", known, repr(wrong)):
            vitreg.attach(model, target=target, **{option: wrong})


def test_a_bad_second_penalty_leaves_nothing_of_the_first(model: nn.Module) -> None:
    for second in (GTA(layers=9), FeatureGuide("nothing"), FeatureGuide("features", layers=0)):
        with unchanged(model), refuses(ArgumentError):
            vitreg.attach(model, target={"first": GTA(), "second": second})
        with vitreg.attach(model, target={"first": GTA()}):
            pass


# Attaching twice


def test_attached_twice_under_one_name(model: nn.Module, images: Tensor) -> None:
    with unchanged(model):
        with vitreg.attach(model) as first:
            message = (
                "'attn_logits' is attached to this model already",
                "attachment.remove()",
                "target={'name'",
            )
            with refuses(ArgumentError, *message):
                vitreg.attach(model)
            with refuses(ArgumentError, *message):
                vitreg.attach(nn.Sequential(model), target=["bss", "attn_logits"])
            with vitreg.attach(model, target={"again": GTA()}) as second:
                model(images)
                torch.testing.assert_close(first.penalty(), second.penalty())
            model(images)
            first.penalty()
        with vitreg.attach(model):
            pass
