import pytest

import vitreg
from laws import refuses
from vitreg import BSS, GTA, L2SP, ArgumentError, FeatureGuide
from vitreg.attachment.targets import resolve_target

NAMES = [*vitreg.list_extractors(), *vitreg.list_penalties()]


def test_there_are_names() -> None:
    assert NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_registered_name_is_a_target(name: str) -> None:
    (key,) = resolve_target(name, {})
    assert key == name


@pytest.mark.parametrize("name", vitreg.list_extractors())
def test_an_extractor_is_guided_by_the_squared_distance(name: str) -> None:
    (penalty,) = resolve_target(name, {}).values()
    assert penalty.extractor == name
    assert isinstance(penalty, GTA if name == "attn_logits" else FeatureGuide)
    assert penalty.lam == 1.0


def test_a_penalty_a_sequence_and_a_mapping() -> None:
    gta, l2sp = GTA(lam=10), L2SP()
    assert resolve_target(gta, {}) == {"gta": gta}
    assert resolve_target([gta, l2sp], {}) == {"gta": gta, "l2sp": l2sp}
    assert resolve_target((gta, "bss"), {}) == {"gta": gta, "bss": BSS()}
    named = resolve_target({"early": GTA(layers=0), "late": GTA(layers=-1), "third": "bss"}, {})
    assert named == {"early": GTA(layers=0), "late": GTA(layers=-1), "third": BSS()}


def test_options_reach_a_target_given_by_name() -> None:
    options = {"layers": [0, -1], "query": "mean", "reduction": "sum"}
    assert resolve_target("attn_logits", options)["attn_logits"] == GTA(**options)
    assert resolve_target("gta", options)["gta"] == GTA(**options)
    assert resolve_target("msa_output", options)["msa_output"] == FeatureGuide("msa_output", **options)


def test_options_do_not_reach_a_penalty() -> None:
    with refuses(ArgumentError, "layers", "belong to the penalty", "GTA(layers=0)"):
        resolve_target(GTA(), {"layers": 0})


def test_options_that_a_penalty_does_not_have() -> None:
    with refuses(ArgumentError, "'l2sp'", "layers"):
        resolve_target("l2sp", {"layers": 0})
    with refuses(ArgumentError, "'bss'", "reduction"):
        resolve_target("bss", {"reduction": "sum"})


def test_two_of_one_name() -> None:
    with refuses(ArgumentError, "Two penalties are called 'gta'", "target={"):
        resolve_target([GTA(layers=0), GTA(layers=1)], {})


@pytest.mark.parametrize("target", [[], (), {}])
def test_nothing(target: object) -> None:
    with refuses(ArgumentError, "target is empty", "at least one"):
        resolve_target(target, {})


@pytest.mark.parametrize(
    ("target", "nearest"),
    [("attn_logit", "attn_logits"), ("feature", "features"), ("l2_sp", "l2sp"), ("GTA", "gta")],
)
def test_an_unknown_name_suggests_the_nearest(target: str, nearest: str) -> None:
    with refuses(ArgumentError, repr(target), f"Did you mean {nearest!r}?"):
        resolve_target(target, {})
    with refuses(ArgumentError, repr(target), f"Did you mean {nearest!r}?"):
        resolve_target(["bss", target], {})


def test_a_name_like_no_other_lists_all() -> None:
    with refuses(ArgumentError, "'???'", *sorted(NAMES)):
        resolve_target("???", {})


@pytest.mark.parametrize("target", [3, None, 1.5, object()])
def test_a_wrong_type(target: object) -> None:
    with refuses(ArgumentError, "target must be", type(target).__name__):
        resolve_target(target, {})
    with refuses(ArgumentError, "as such or by name", type(target).__name__):
        resolve_target([target], {})


def test_a_class_is_no_penalty() -> None:
    with refuses(ArgumentError, "not its class", "GTA()"):
        resolve_target([GTA], {})
    with refuses(ArgumentError, "not its class", "GTA()"):
        resolve_target(GTA, {})


@pytest.mark.parametrize("name", [3, "", None])
def test_a_name_that_is_none(name: object) -> None:
    with refuses(ArgumentError, "name", repr(name)):
        resolve_target({name: "bss"}, {})
