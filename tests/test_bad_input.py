"""What cannot work is refused: a clear error at the earliest moment, and nothing changed on the model."""

import re

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import vitreg
from laws import refuses, unchanged
from small_models import TOWERS
from vitreg import (
    BSS,
    GTA,
    L2SP,
    ArgumentError,
    FeatureGuide,
    MismatchError,
    StateError,
    TransMix,
    UnsupportedModelError,
)


@pytest.fixture
def model(vit: object) -> nn.Module:
    return vit().train()


# The model


@pytest.mark.parametrize(
    "wrong", [None, "vit_small_patch16_224", 3, torch.ones(1)], ids=lambda w: type(w).__name__
)
def test_no_module(wrong: object) -> None:
    for call in (vitreg.attach, vitreg.describe, lambda m: vitreg.trace(m, "attn_logits").__enter__()):
        with refuses(ArgumentError, "torch.nn.Module", type(wrong).__name__):
            call(wrong)


def test_no_known_model() -> None:
    convolutional = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    message = (
        "Sequential is no Vision Transformer: it has no attention",
        "Expected a Vision Transformer: a known class",
        "vitreg.register_tower",
    )
    with unchanged(convolutional):
        with refuses(UnsupportedModelError, *message):
            vitreg.attach(convolutional)
        with refuses(UnsupportedModelError, *message):
            TransMix(convolutional, num_classes=5)


def test_known_attention_in_an_unknown_model() -> None:
    encoder = nn.TransformerEncoderLayer(16, 2)
    with (
        unchanged(encoder),
        refuses(
            UnsupportedModelError,
            "found none in TransformerEncoderLayer",
            "MultiheadAttention",
            "register_tower",
        ),
    ):
        vitreg.attach(encoder)


def test_no_known_attention(vit: object) -> None:
    class Other(nn.Module):
        def __init__(self, dim: int, **_: object) -> None:
            super().__init__()
            self.mix = nn.Linear(dim, dim)

        def forward(self, x: Tensor, **_: object) -> Tensor:
            return self.mix(x)

    model = vit(attn_layer=Other)
    message = ("'blocks.0'", "expected attention of a known family", "Other", "block_output")
    with unchanged(model):
        with refuses(UnsupportedModelError, *message, "register_family"):
            vitreg.attach(model)
        with refuses(UnsupportedModelError, "attention of a known family", "Other", "register_family"):
            TransMix(model, num_classes=5)


def test_no_class_token(vit: object) -> None:
    model = vit(class_token=False, global_pool="avg")
    with (
        unchanged(model),
        refuses(
            UnsupportedModelError,
            "attn_logits",
            "needs a class token",
            "has none",
            "query='mean'",
            "block_output",
        ),
    ):
        vitreg.attach(model)


def test_two_vision_transformers(vit: object) -> None:
    model = nn.ModuleDict({"left": vit(), "right": vit()})
    with (
        unchanged(model),
        refuses(
            UnsupportedModelError, "Expected one", "found 2", "'left'", "'right'", "Pass the one you mean"
        ),
    ):
        vitreg.attach(model)


@pytest.mark.parametrize("where", ["whole", "in place", "a block", "inside"])
def test_compiled_already(vit: object, where: str) -> None:
    inner = vit()
    model: nn.Module = inner
    if where == "whole":
        model = torch.compile(inner, backend="eager")
    elif where == "in place":
        inner.compile(backend="eager")
    elif where == "a block":
        inner.blocks[1].compile(backend="eager")
    else:
        model = nn.Sequential(nn.Identity(), torch.compile(inner, backend="eager"))
    message = ("Expected an eager model", "compiled by torch.compile", "Attach first")
    with unchanged(inner):
        with refuses(ArgumentError, *message):
            vitreg.attach(model)
        with refuses(ArgumentError, *message):
            vitreg.trace(model, "features").__enter__()
        with refuses(ArgumentError, *message):
            TransMix(model, num_classes=5)


def test_data_parallel(model: nn.Module) -> None:
    wrapped = nn.DataParallel(model)
    with unchanged(model), refuses(ArgumentError, "nn.DataParallel", "DistributedDataParallel"):
        vitreg.attach(wrapped)


# The source


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"depth": 2}, ("blocks: 3 in the model, 2 in the source",)),
        ({"num_heads": 4}, ("heads: 2 in the model, 4 in the source",)),
        ({"img_size": 64}, ("patch grid: (4, 4) in the model, (8, 8) in the source",)),
        ({"patch_size": 16}, ("patch grid: (4, 4) in the model, (2, 2) in the source",)),
        ({"embed_dim": 32}, ("width: 16 in the model, 32 in the source",)),
        ({"reg_tokens": 2}, ("prefix tokens: 1 in the model, 3 in the source",)),
        (
            {"class_token": False, "global_pool": "avg"},
            ("class token: True in the model, False in the source", "prefix tokens"),
        ),
        ({"depth": 2, "num_heads": 4}, ("blocks", "heads")),
    ],
    ids=str,
)
@pytest.mark.parametrize("target", ["attn_logits", "block_output", "l2sp"])
def test_a_source_that_differs(vit: object, options: dict, parts: tuple[str, ...], target: str) -> None:
    model, source = vit(), vit(**options)
    with (
        unchanged(model),
        unchanged(source),
        refuses(MismatchError, "own architecture", *parts, "Create both by the same call", "source=None"),
    ):
        vitreg.attach(model, source, target=target)


def test_a_source_of_another_class(model: nn.Module) -> None:
    source = TOWERS["timm_beit"]()
    with (
        unchanged(model),
        unchanged(source),
        refuses(MismatchError, "VisionTransformer in the model", "Beit in the source", "same call"),
    ):
        vitreg.attach(model, source)


def test_another_attachments_source_that_differs(vit: object, model: nn.Module) -> None:
    other = vit(depth=2)
    with (
        vitreg.attach(other) as attachment,
        unchanged(model),
        refuses(MismatchError, "blocks: 3", "2 in the"),
    ):
        vitreg.attach(model, attachment.source)


@pytest.mark.parametrize("wrong", ["vit", 3, {}], ids=str)
@pytest.mark.parametrize("target", ["attn_logits", "bss"])
def test_no_source(model: nn.Module, wrong: object, target: str) -> None:
    with unchanged(model), refuses(ArgumentError, "source must be a module", type(wrong).__name__):
        vitreg.attach(model, wrong, target=target)


def test_a_source_without_a_vision_transformer(model: nn.Module) -> None:
    with unchanged(model), refuses(UnsupportedModelError, "Expected a Vision Transformer", "none in Linear"):
        vitreg.attach(model, nn.Linear(2, 2))


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


# The moment


def test_penalty_before_a_forward_pass(model: nn.Module) -> None:
    with unchanged(model), vitreg.attach(model) as attachment:
        with refuses(StateError, "needs a forward pass", "training mode", "none was seen"):
            attachment.penalty()
        assert attachment.step == 0
        assert attachment.terms == {}


def test_penalty_twice_after_one_pass(model: nn.Module, images: Tensor) -> None:
    with unchanged(model), vitreg.attach(model) as attachment:
        model(images)
        attachment.penalty()
        with refuses(StateError, "needs a forward pass", "taken already", "run the model again"):
            attachment.penalty()
        model(images)
        attachment.penalty()
        assert attachment.step == 2


@pytest.mark.parametrize("target", ["attn_logits", "l2sp"])
def test_penalty_after_remove(model: nn.Module, images: Tensor, target: str) -> None:
    with unchanged(model):
        attachment = vitreg.attach(model, target=target)
        model(images)
        attachment.remove()
        attachment.remove()
        with refuses(StateError, "was removed", "attach again"):
            attachment.penalty()


def test_forward_in_eval(model: nn.Module, images: Tensor) -> None:
    with vitreg.attach(model) as attachment:
        model(images)
        attachment.penalty()
        model.eval()
        model(images)
        with refuses(StateError, "training mode", "eval mode", "model.train()", "attach again"):
            attachment.penalty()


def test_an_empty_batch(model: nn.Module, images: Tensor) -> None:
    for target in ("attn_logits", "block_output", "bss"):
        with unchanged(model), vitreg.attach(model, target=target) as attachment:
            model(images[:0])
            with refuses(ArgumentError, "at least one image", "an empty one", "drop_last=True"):
                attachment.penalty()
            model(images)
            attachment.penalty()


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_forward_without_gradients(model: nn.Module, images: Tensor, context: type) -> None:
    with unchanged(model), vitreg.attach(model) as attachment:
        with context():
            model(images)
        with refuses(StateError, "without gradients", "no_grad"):
            attachment.penalty()


def test_an_evaluation_keeps_the_training_pass(model: nn.Module, images: Tensor) -> None:
    with vitreg.attach(model, target="bss") as attachment:
        model(images)
        model.eval()
        with torch.no_grad():
            model(images[:1])
        model.train()
        assert attachment.penalty().item() > 0
        model.eval()
        model(images)
        model.train()
        with refuses(StateError, "eval mode"):
            attachment.penalty()


def test_a_pass_that_was_cut_short(model: nn.Module, images: Tensor) -> None:
    with unchanged(model), vitreg.attach(model) as attachment:
        model(images)
        with pytest.raises(AssertionError):
            model(torch.randn(4, 3, 24, 24))
        model.forward_features(images)
        attachment.penalty()
    with unchanged(model), vitreg.attach(model, target="bss") as attachment:
        model.forward_features(images)
        with refuses(StateError, "did not deliver features", "own head"):
            attachment.penalty()


def test_nothing_that_is_read_is_trained(model: nn.Module, images: Tensor) -> None:
    with vitreg.attach(model) as attachment, vitreg.freeze(model, "head"):
        model(images)
        value = attachment.penalty()  # it joins when the blocks do: test_frozen_start.py
        assert (value.item(), value.requires_grad) == (0, False)


def test_dropped_tokens(vit: object, images: Tensor) -> None:
    model = vit(patch_drop_rate=0.5).train()
    with unchanged(model), vitreg.attach(model) as attachment:
        model(images)
        with refuses(MismatchError, "Token dropping", "patch_drop_rate", "must be off"):
            attachment.penalty()


def test_reentrant_checkpointing(vit: object, images: Tensor) -> None:
    class Checkpointed(nn.Module):
        """A block whose parts run under reentrant checkpointing."""

        def __init__(self, block: nn.Module) -> None:
            super().__init__()
            self.block = block
            self.attn = block.attn
            self.mlp = block.mlp

        def forward(self, x: Tensor, **_: object) -> Tensor:
            return checkpoint(self.block, x, use_reentrant=True)

    model = vit().train()
    model.blocks = nn.Sequential(*(Checkpointed(block) for block in model.blocks))
    with unchanged(model), vitreg.attach(model) as attachment:
        with refuses(StateError, "without gradients inside a training pass", "use_reentrant=False"):
            model(images)
        with refuses(StateError, "needs a forward pass"):
            attachment.penalty()


def test_timms_reentrant_checkpointing(model: nn.Module, images: Tensor) -> None:
    from timm.layers import set_reentrant_ckpt, use_reentrant_ckpt

    before = use_reentrant_ckpt()
    model.set_grad_checkpointing()
    try:
        set_reentrant_ckpt(True)
        with (
            unchanged(model),
            vitreg.attach(model),
            refuses(StateError, "reentrant", "timm.layers.set_reentrant_ckpt(False)"),
        ):
            model(images)
        set_reentrant_ckpt(False)
        with unchanged(model), vitreg.attach(model) as attachment:
            model(images)
            attachment.penalty()
    finally:
        set_reentrant_ckpt(before)


# TransMix and BSS


@pytest.mark.parametrize("shape", [(3, 3, 32, 32), (1, 3, 32, 32), (3, 32, 32)], ids=str)
def test_transmix_odd_batch(model: nn.Module, shape: tuple[int, ...]) -> None:
    labels = torch.zeros(shape[0], dtype=torch.long)
    with (
        unchanged(model),
        TransMix(model, num_classes=5) as mix,
        refuses(ArgumentError, "even batch", str(list(shape)), "drop_last=True"),
    ):
        mix(torch.randn(shape), labels)


@pytest.mark.parametrize("size", [(33, 32), (32, 64), (64, 64), (16, 16), (224, 224)], ids=str)
def test_transmix_wrong_image_size(model: nn.Module, size: tuple[int, int]) -> None:
    with (
        unchanged(model),
        TransMix(model, num_classes=5) as mix,
        refuses(ArgumentError, "4×4 patches", f"{size[0]}×{size[1]}"),
    ):
        mix(torch.randn(2, 3, *size), torch.tensor([0, 1]))


@pytest.mark.parametrize("wrong", [[0, 5], [-1, 0], [0, 99]], ids=str)
def test_transmix_class_index_out_of_range(model: nn.Module, images: Tensor, wrong: list[int]) -> None:
    with (
        unchanged(model),
        TransMix(model, num_classes=5) as mix,
        refuses(ArgumentError, "0 … 4", f"{min(wrong)} … {max(wrong)}"),
    ):
        mix(images[:2], torch.tensor(wrong))


@pytest.mark.parametrize(
    "labels", [torch.tensor([0.0, 1.0]), torch.tensor([0, 1, 2]), torch.eye(2), torch.eye(2).long()], ids=str
)
def test_transmix_no_class_indices(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    with (
        unchanged(model),
        TransMix(model, num_classes=5) as mix,
        refuses(ArgumentError, "2 class indices", str(list(labels.shape)), str(labels.dtype)),
    ):
        mix(images[:2], labels)


def test_bss_of_one_image(model: nn.Module, images: Tensor) -> None:
    with unchanged(model), vitreg.attach(model, target=[BSS(), L2SP()]) as attachment:
        model(images[:1])
        with refuses(ArgumentError, "at least 2 images", "found 1", "larger batch"):
            attachment.penalty()
        assert attachment.step == 0
        assert attachment.terms == {}


# Every error


def test_errors_are_pythons_own_too() -> None:
    assert issubclass(ArgumentError, ValueError)
    assert issubclass(MismatchError, ValueError)
    assert issubclass(UnsupportedModelError, TypeError)
    assert issubclass(StateError, RuntimeError)
    for error in (ArgumentError, MismatchError, UnsupportedModelError, StateError):
        assert issubclass(error, vitreg.VitregError)
        assert re.search(r"\w+\.$", error.__doc__ or "")


def test_a_convolutional_network_beside_it_is_not_meant(vit: object) -> None:
    import timm

    both = nn.ModuleDict({"detector": timm.create_model("mobilenetv3_small_050"), "vit": vit()})
    assert vitreg.describe(both).name == "vit"
