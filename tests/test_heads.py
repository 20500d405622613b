"""Which parameters count as a new head: by default beside other pre-trained parts, and by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
import transformers as T
from torch import Tensor, nn

import vitreg
from laws import refuses, unchanged
from small_models import make_clip, make_vit
from vitreg import L2SP, ArgumentError
from vitreg.families import find_tower
from vitreg.parameters.heads import head_parameters

VISION = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
TEXT = T.BertConfig(**VISION, vocab_size=99)
VIT = T.ViTConfig(**VISION, image_size=32, patch_size=8, num_labels=3)
CLIP = T.CLIPVisionConfig(**VISION, image_size=32, patch_size=8)


def decoder() -> nn.Module:
    config = T.BertConfig(**VISION, vocab_size=99, is_decoder=True, add_cross_attention=True)
    return T.BertLMHeadModel(config)


def dual() -> nn.Module:
    config = T.VisionTextDualEncoderConfig.from_vision_text_configs(VIT, TEXT)
    return T.VisionTextDualEncoderModel(config)


class MyVisionModel(T.PreTrainedModel):
    """A model of the user's that only borrows the library's base class."""

    config_class = T.ViTConfig
    _supports_sdpa = True

    def __init__(self, config: T.ViTConfig) -> None:
        super().__init__(config)
        self.vit = T.ViTModel(config)
        self.classifier = nn.Linear(16, 3)
        self.post_init()


class MyTask(T.ViTForImageClassification):
    """A class of the library with one more head."""

    def __init__(self, config: T.ViTConfig) -> None:
        super().__init__(config)
        self.other = nn.Linear(16, 2)


def beside(**parts: nn.Module) -> nn.Module:
    return nn.ModuleDict({"vit": make_vit(num_classes=0), **parts})


def timms() -> nn.Module:
    return timm.create_model("test_byobnet", pretrained=False)


MODELS: dict[str, tuple[Callable[[], nn.Module], set[str]]] = {
    "a classifier's own": (make_vit, {"head"}),
    "around a tower": (lambda: nn.Sequential(make_vit(num_classes=0), nn.Linear(16, 3)), {"1"}),
    "around CLIP": (lambda: nn.Sequential(make_clip(), nn.Linear(8, 3)), {"1"}),
    "VisionTextDualEncoder": (dual, set()),
    "VisionEncoderDecoder": (
        lambda: T.VisionEncoderDecoderModel(encoder=T.ViTModel(VIT), decoder=decoder()),
        set(),
    ),
    "around VisionTextDualEncoder": (lambda: nn.Sequential(dual(), nn.Linear(8, 3)), {"1"}),
    "ForImageClassification": (lambda: T.ViTForImageClassification(VIT), {"classifier"}),
    "ForImageClassification, no base": (lambda: T.CLIPForImageClassification(T.CLIPConfig()), {"classifier"}),
    "ForMaskedImageModeling": (lambda: T.ViTForMaskedImageModeling(VIT), set()),
    "a user's with the base class": (lambda: MyVisionModel(VIT), {"classifier"}),
    "a user's of the library's": (lambda: MyTask(VIT), {"classifier", "other"}),
    "beside a text model": (lambda: beside(text=T.BertModel(TEXT), fc=nn.Linear(16, 3)), {"fc"}),
    "beside a network of torchvision": (
        lambda: beside(cnn=torchvision.models.squeezenet1_1(), fc=nn.Linear(16, 3)),
        {"fc"},
    ),
    "beside a network of timm": (lambda: beside(cnn=timms(), fc=nn.Linear(16, 3)), {"fc"}),
    "beside new layers": (lambda: beside(norm=nn.LayerNorm(16), fc=nn.Linear(16, 3)), {"norm", "fc"}),
}


def names(model: nn.Module, parameters: list[nn.Parameter]) -> set[str]:
    chosen = {id(p) for p in parameters}
    return {name for name, p in model.named_parameters() if id(p) in chosen}


def inside(model: nn.Module, heads: set[str]) -> set[str]:
    return {name for name, _ in model.named_parameters() if name.partition(".")[0] in heads}


@pytest.mark.parametrize(("make", "heads"), MODELS.values(), ids=MODELS)
def test_by_default(make: Callable[[], nn.Module], heads: set[str]) -> None:
    torch.manual_seed(0)
    model = make().train()
    expected = inside(model, heads)
    assert names(model, head_parameters(model, find_tower(model))) == expected
    with unchanged(model), vitreg.attach(model, target=L2SP(lam=1.0, head=1.0)) as attachment:
        value = attachment.penalty()
        weights = [p for name, p in model.named_parameters() if name in expected and p.dim() > 1]
        literal = sum(0.5 * p.detach().double().square().sum().item() for p in weights)
        assert value.item() == pytest.approx(literal, rel=1e-4)  # nothing has left its start
        if not heads:
            assert not any(p.grad is not None and p.grad.any() for p in model.parameters())
            with refuses(ArgumentError, "nothing to train", "new_head="):
                vitreg.freeze(model, "head")
        else:
            value.backward()
            pulled = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
            assert pulled == {n for n in expected if model.get_parameter(n).dim() > 1}
            with vitreg.freeze(model, "head"):
                assert {n for n, p in model.named_parameters() if p.requires_grad} == expected


NEW_HEADS: list[tuple[str | list[str] | tuple[str, ...], set[str]]] = [
    ("fc", {"fc.weight", "fc.bias"}),
    (["fc", "norm"], {"fc.weight", "fc.bias", "norm.weight", "norm.bias"}),
    ("fc.weight", {"fc.weight"}),
    ((), set()),
    ("vit.blocks.2.mlp.fc1", {"vit.blocks.2.mlp.fc1.weight", "vit.blocks.2.mlp.fc1.bias"}),
]


@pytest.mark.parametrize(("new_head", "expected"), NEW_HEADS, ids=[str(given) for given, _ in NEW_HEADS])
def test_by_name(new_head: str | list[str], expected: set[str], perturb: Callable[[nn.Module], None]) -> None:
    model = beside(fc=nn.Linear(16, 3), norm=nn.LayerNorm(16)).train()
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    with vitreg.attach(model, target=L2SP(lam=1.0, head=2.0, biases=True), new_head=new_head) as attachment:
        perturb(model)
        literal = 0.0
        for name, p in model.named_parameters():
            if name in expected:
                literal += p.detach().double().square().sum().item()  # 2.0 / 2
            elif name.startswith("vit."):
                literal += 0.5 * (p - start[name]).detach().double().square().sum().item()
        assert attachment.penalty().item() == pytest.approx(literal, rel=1e-4)
    if expected:
        with vitreg.freeze(model, "head", new_head=new_head):
            assert {name for name, p in model.named_parameters() if p.requires_grad} == expected
    groups = vitreg.param_groups(model, lr=1.0, head_lr=7.0, new_head=new_head)
    assert names(model, [p for group in groups if group["lr"] == 7.0 for p in group["params"]]) == expected


def test_a_head_that_is_reset_keeps_its_name(images: Tensor) -> None:
    model = make_vit().train()
    with vitreg.attach(model, target=L2SP(lam=1.0, head=1.0), new_head="head") as attachment:
        model.reset_classifier(7)
        assert attachment.penalty().item() == pytest.approx(
            0.5 * model.head.weight.detach().double().square().sum().item(), rel=1e-4
        )


def test_wrong_names() -> None:
    model = make_vit()
    for wrong, near in (("heads", "Did you mean 'head'?"), ("zzzzzz", "See `model.named_modules()`.")):
        with unchanged(model), refuses(ArgumentError, f"new_head={wrong!r}", "VisionTransformer", near):
            vitreg.attach(model, target="l2sp", new_head=wrong)
        with unchanged(model), refuses(ArgumentError, f"new_head={wrong!r}", near):
            vitreg.freeze(model, "head", new_head=[wrong])
    for wrong in (3, [3], "", [nn.Linear(2, 2)], {"head"}):
        with unchanged(model), refuses(ArgumentError, "new_head takes names of modules or parameters"):
            vitreg.attach(model, target="l2sp", new_head=wrong)
    with unchanged(model), refuses(ArgumentError, "penalties on parameters", "found none", "Leave it out"):
        vitreg.attach(model, new_head="head")
