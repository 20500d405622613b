import pytest
from torch import Tensor, nn

import vitreg
from laws import refuses
from vitreg import ArgumentError
from vitreg.extractors import extractors
from vitreg.penalties import penalties
from vitreg.registry import ClassRegistry, Registry, suggest


@pytest.fixture
def registry() -> Registry[int]:
    registry: Registry[int] = Registry("colour")
    registry.add("red", 1)
    registry.add("green", 2)
    return registry


def test_names_are_sorted_and_found(registry: Registry[int]) -> None:
    assert registry.names() == ["green", "red"]
    assert registry["red"] == 1
    assert "red" in registry
    assert "blue" not in registry


def test_duplicates_are_refused(registry: Registry[int]) -> None:
    with refuses(ArgumentError, "colour 'red'", "already registered", "Choose another name"):
        registry.add("red", 3)
    assert registry["red"] == 1


@pytest.mark.parametrize("name", ["", "two words", "3d", 3, None])
def test_names_are_identifiers(registry: Registry[int], name: object) -> None:
    with refuses(ArgumentError, "identifier", repr(name)):
        registry.add(name, 3)
    assert registry.names() == ["green", "red"]


def test_an_unknown_name_suggests_the_nearest(registry: Registry[int]) -> None:
    with refuses(ArgumentError, "no colour 'gren'", "Did you mean 'green'?"):
        registry["gren"]
    with refuses(ArgumentError, "no colour 'xyz'", "'green', 'red'"):
        registry["xyz"]


def test_suggest() -> None:
    assert suggest("attn_logit", ["attn_logits", "features"]) == "Did you mean 'attn_logits'?"
    assert suggest("zzz", ["b", "a"]) == "Known: 'a', 'b'."


class Base(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class KeepsForward(Base):
    pass


class OverridesForward(Base):
    def forward(self, x: Tensor) -> Tensor:
        return -x


class KeepsTheOverride(OverridesForward):
    pass


def described(module: nn.Module) -> str:
    return type(module).__name__


def test_a_class_is_found_through_the_mro_while_forward_is_its_own() -> None:
    registry: ClassRegistry[str] = ClassRegistry("family", own_forward=True)
    assert registry.register(Base)(described) is described
    assert registry.find(Base()) is described
    assert registry.find(KeepsForward()) is described
    assert registry.find(OverridesForward()) is None
    assert registry.find(KeepsTheOverride()) is None
    assert registry.find(nn.Identity()) is None


def test_a_class_is_found_whatever_its_forward_where_that_plays_no_part() -> None:
    registry: ClassRegistry[str] = ClassRegistry("tower", own_forward=False)
    registry.register(Base)(described)
    assert registry.find(KeepsTheOverride()) is described


def test_the_nearest_class_wins() -> None:
    registry: ClassRegistry[str] = ClassRegistry("family", own_forward=True)
    registry.register(Base)(described)
    registry.register(OverridesForward)(repr)
    assert registry.find(KeepsTheOverride()) is repr
    assert registry.find(KeepsForward()) is described


def test_a_class_twice_or_no_module_class_is_refused() -> None:
    registry: ClassRegistry[str] = ClassRegistry("family", own_forward=True)
    registry.register(Base)(described)
    with refuses(ArgumentError, "Base is already registered"):
        registry.register(Base)
    for wrong in (int, Base(), "Base", None):
        with refuses(ArgumentError, "a subclass of nn.Module", repr(wrong)):
            registry.register(wrong)
    assert registry.names() == [f"{__name__}.Base"]


def test_public_registries_are_listed_and_refuse_duplicates() -> None:
    names = vitreg.list_extractors()
    assert names == sorted(names)
    assert {"attn_logits", "attn_probs", "msa_output", "block_output", "features"} <= set(names)
    for name in names:
        with refuses(ArgumentError, f"extractor {name!r}", "already registered"):
            vitreg.register_extractor(name)(lambda tower, block, query: None)
    assert {"gta", "feature_guide", "l2sp", "bss"} <= set(vitreg.list_penalties())
    for name in vitreg.list_penalties():
        with refuses(ArgumentError, f"penalty {name!r}", "already registered"):
            vitreg.register_penalty(name)(vitreg.GTA)
    families = vitreg.list_families()
    assert any("timm" in name for name in families)
    assert any("MultiheadAttention" in name for name in families)
    with refuses(ArgumentError, "MultiheadAttention is already registered"):
        vitreg.register_family(nn.MultiheadAttention)


def test_only_penalties_are_registered_as_penalties() -> None:
    for wrong in (int, vitreg.GTA(), "gta"):
        with refuses(ArgumentError, "vitreg.ReadingPenalty or vitreg.ParameterPenalty"):
            vitreg.register_penalty("another")(wrong)
    assert "another" not in vitreg.list_penalties()


def test_an_extractor_and_a_penalty_from_outside(
    monkeypatch: pytest.MonkeyPatch, vit: object, images: Tensor
) -> None:
    monkeypatch.setattr(extractors, "_entries", dict(extractors._entries))
    monkeypatch.setattr(penalties, "_entries", dict(penalties._entries))

    @vitreg.register_extractor("mlp_output")
    def mlp_output(tower: vitreg.Tower, block: vitreg.Block, query: str) -> vitreg.Probe:
        return vitreg.Probe({"output": vitreg.Tap(block.ffn)}, lambda seen: seen["output"])

    @vitreg.register_penalty("mlp_size")
    class MlpSize(vitreg.ReadingPenalty):
        needs_source = False
        extractor = "mlp_output"

        def value(self, target: list[Tensor], source: list[Tensor]) -> Tensor:
            assert source == []
            return sum(t.square().mean() for t in target)

    model = vit().train()
    with vitreg.trace(model, "mlp_output") as trace:
        model(images)
    assert [list(value.shape) for value in trace["mlp_output"]] == [[4, 17, 16]] * 3
    with vitreg.attach(model, target=["mlp_output", "mlp_size"]) as attachment:
        model(images)
        attachment.penalty()
        expected = sum(value.square().mean() for value in trace["mlp_output"])
        assert attachment.terms["mlp_size"].item() == pytest.approx(expected.item(), rel=1e-5)
        assert attachment.terms["mlp_output"].item() == 0


def test_a_family_from_outside(monkeypatch: pytest.MonkeyPatch, vit: object, images: Tensor) -> None:
    from timm.layers.attention import Attention

    from vitreg.families import families

    vitreg.list_families()
    monkeypatch.setattr(families, "_entries", dict(families._entries))

    class Mine(Attention):
        def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
            return super().forward(x) + super().forward(-x)  # two softmaxes: nothing to be guessed

    model = vit(attn_layer=Mine).train()
    assert vitreg.describe(model).extractors["attn_logits"]

    @vitreg.register_family(Mine)
    def mine(module: Mine) -> vitreg.AttentionReading:
        return families._entries[Attention](module)

    with vitreg.trace(model, "attn_logits") as trace:
        model(images)
    assert trace["attn_logits"][0].shape == (4, 2, 16)
