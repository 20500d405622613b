"""Weights by name, without the network: a filled cache of the hub, files for open_clip."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import huggingface_hub.constants
import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from small_data import MODEL, SIZE
from vitreg.errors import InputError
from vitreg.train.models import pretrained as hub
from vitreg.train.models.pretrained import open_weights
from vitreg.train.models.weights import file_hash, load_model, state_hash

State = dict[str, Tensor]
SERVED = f"{MODEL}.r160_in1k"
CLIP = "vit_xsmall_patch16_clip_224"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, which cannot be reached."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def put(cache: Path, name: str, state: State, config: dict[str, object] | None = None) -> None:
    """Lay a model where the hub's library keeps what it has fetched."""
    place = cache / f"models--{name.replace('/', '--')}"
    revision = "0123456789" * 4
    (place / "snapshots" / revision).mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(revision)
    save_file(state, place / "snapshots" / revision / "model.safetensors")
    if config is not None:
        (place / "snapshots" / revision / "config.json").write_text(json.dumps(config))


def random_state(name: str, **arguments: object) -> State:
    torch.manual_seed(3)
    state = timm.create_model(name, **arguments).state_dict()
    return {key: value + 0.1 * torch.randn_like(value) for key, value in state.items()}


def test_file_has_the_fingerprint_of_its_content(weights: Path, state: State) -> None:
    found, fingerprint = open_weights(str(weights), MODEL)
    assert fingerprint == file_hash(weights)
    assert found.keys() == state.keys()


@pytest.mark.parametrize("text", ["nowhere.pth", "tim", ""])
def test_what_is_no_file_is_told_the_forms(text: str) -> None:
    with pytest.raises(
        InputError, match=r"no such file; expected a \.safetensors, \.pth or \.npz FILE, timm, hf-hub:"
    ):
        open_weights(text, MODEL)


@pytest.mark.parametrize("model", [MODEL, SERVED])
def test_timm_serves_what_lies_in_its_cache(cache: Path, model: str) -> None:
    state = random_state(MODEL)
    put(cache, f"timm/{SERVED}", state)
    found, fingerprint = open_weights("timm", model)
    assert fingerprint == state_hash(state)
    loaded = load_model(model, found, num_classes=2, size=SIZE)  # at another size than 160
    key = "blocks.3.attn.qkv.weight"
    assert torch.equal(loaded.state_dict()[key], state[key])


def test_timm_out_of_reach_says_what_to_fetch(cache: Path) -> None:
    with pytest.raises(
        InputError, match=rf"from https://huggingface\.co/timm/{SERVED} and give the file"
    ) as e:
        open_weights("timm", MODEL)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("tst_vit", r"timm has no model 'tst_vit'; did you mean test_vit\?"),
        (f"{MODEL}.dino", rf"serves no weights for {MODEL}\.dino; for {MODEL}: {SERVED}"),
        ("vit_tiny_patch16_gap_dummy", "timm has no model"),
        ("vit_small_patch16_36x36_dummy.x", "timm has no model"),
        ("vit_small_patch8_224.nope", r"for vit_small_patch8_224: vit_small_patch8_224\.dino"),
    ],
)
def test_timm_without_weights_names_those_there_are(cache: Path, model: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_weights("timm", model)


def test_values_that_are_not_finite_are_refused_from_anywhere(cache: Path) -> None:
    state = random_state(MODEL)
    put(cache, f"timm/{SERVED}", {**state, "norm.bias": torch.full((64,), float("nan"))})
    with pytest.raises(InputError, match=r"timm has values that are not finite in norm\.bias"):
        open_weights("timm", MODEL)


def config(**model_args: object) -> dict[str, object]:
    settings = {"input_size": [3, SIZE, SIZE], "num_classes": 5, "fixed_input_size": True}
    return {"architecture": MODEL, "num_classes": 5, "pretrained_cfg": settings, "model_args": model_args}


def test_hub_model_of_anyone(cache: Path) -> None:
    state = random_state(MODEL, num_classes=5, img_size=SIZE)
    put(cache, "someone/birds", state, config())
    found, fingerprint = open_weights("hf-hub:someone/birds", MODEL)
    assert fingerprint == state_hash(state) == state_hash(found)


def test_hub_model_that_computes_something_else_is_refused(cache: Path) -> None:
    # The same names and shapes: only what is done with them differs.
    state = random_state(MODEL, num_classes=5, img_size=SIZE)
    put(cache, "someone/birds", state, config(act_layer="relu"))
    with pytest.raises(InputError, match=f"something else than timm's {MODEL} with the same weights"):
        open_weights("hf-hub:someone/birds", MODEL)


def test_hub_model_of_other_weights_is_refused(cache: Path) -> None:
    put(cache, "someone/birds", random_state(MODEL, num_classes=5, img_size=SIZE), config())
    with pytest.raises(InputError, match="the weights do not fit deit_tiny_patch16_224"):
        open_weights("hf-hub:someone/birds", "deit_tiny_patch16_224")


def test_hub_model_with_a_file_of_its_own_is_refused(cache: Path) -> None:
    named = config()
    named["pretrained_cfg"] = {**named["pretrained_cfg"], "hf_hub_filename": "anything.bin"}  # type: ignore[dict-item]
    put(cache, "someone/birds", random_state(MODEL, num_classes=5, img_size=SIZE), named)
    with pytest.raises(InputError, match=r"expected model\.safetensors"):
        open_weights("hf-hub:someone/birds", MODEL)


def test_hub_out_of_reach(cache: Path) -> None:
    with pytest.raises(
        InputError, match=r"fetch model\.safetensors from https://huggingface\.co/some/one and"
    ):
        open_weights("hf-hub:some/one", MODEL)


@pytest.fixture
def clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, State]:
    """Two small models that open_clip knows, with and without QuickGELU, and the weights of their towers."""
    made = {}
    for name, quick in (("ViT-small", False), ("ViT-small-quickgelu", True)):
        settings = {
            "embed_dim": 32,
            "quick_gelu": quick,
            "vision_cfg": {"image_size": 64, "layers": 10, "width": 256, "patch_size": 16},
            "text_cfg": {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1},
        }
        (tmp_path / f"{name}.json").write_text(json.dumps(settings))
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, settings)
        torch.manual_seed(4)
        model = open_clip.create_model(name)
        made[name] = {key: value + 0.1 * torch.randn_like(value) for key, value in model.state_dict().items()}
        torch.save(made[name], tmp_path / f"{name}.pt")
        served = {"file": str(tmp_path / f"{name}.pt"), "hf_hub": "someone/clip/", "quick_gelu": quick}
        tags = {"drawn": served, "lost": {**served, "file": str(tmp_path / "lost.pt")}}
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, name, tags)
    return made


def test_open_clip_tower_in_timm_makes_the_same_of_a_picture(clips: dict[str, State]) -> None:
    found, fingerprint = open_weights("open_clip:ViT-small/drawn", CLIP)
    assert found.keys() == {key for key in clips["ViT-small"] if key.startswith("visual.")}
    assert fingerprint == state_hash(found)
    theirs = open_clip.create_model("ViT-small")
    theirs.load_state_dict(clips["ViT-small"])
    ours = load_model(CLIP, found, num_classes=2, size=64).eval()
    pictures = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        projected = ours.forward_head(ours.forward_features(pictures), pre_logits=True) @ found["visual.proj"]
        torch.testing.assert_close(projected, theirs.eval().encode_image(pictures), atol=1e-4, rtol=1e-4)


def test_open_clip_with_another_activation_is_refused(clips: dict[str, State]) -> None:
    with pytest.raises(InputError, match=f"something else than timm's {CLIP} .* another activation"):
        open_weights("open_clip:ViT-small-quickgelu/drawn", CLIP)


def test_open_clip_tag_of_another_activation_is_refused(
    clips: dict[str, State], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED["ViT-small"]["drawn"], "quick_gelu", True)
    with pytest.raises(
        InputError, match=r"was trained with QuickGELU, .* try open_clip:ViT-small-quickgelu/drawn"
    ):
        open_weights("open_clip:ViT-small/drawn", CLIP)


def test_activation_is_named_where_timm_has_both(clips: dict[str, State]) -> None:
    assert hub._twin("vit_base_patch16_clip_224") == "try --model vit_base_patch16_clip_quickgelu_224"
    assert hub._twin("vit_base_patch16_clip_quickgelu_224") == "try --model vit_base_patch16_clip_224"
    assert hub._twin(MODEL) == "name the model that they are of (--model)"


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("ViT-smal/drawn", r"no model 'ViT-smal'; did you mean ViT-small\?"),
        ("ViT-small", "no model ''.*expected open_clip:MODEL/TAG"),
        ("ViT-small/other", "no weights 'other' for ViT-small; it has drawn, lost"),
        ("ViT-small/lost", r"fetch them from https://huggingface\.co/someone/clip/ and give the file"),
    ],
)
def test_open_clip_without_such_weights(clips: dict[str, State], place: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_weights(f"open_clip:{place}", CLIP)


def test_open_clip_for_a_model_without_its_first_norm(clips: dict[str, State]) -> None:
    with pytest.raises(InputError, match="the weights do not fit vit_small_patch16_224"):
        open_weights("open_clip:ViT-small/drawn", "vit_small_patch16_224")


def test_open_clip_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(InputError, match="pip install open-clip-torch"):
        open_weights("open_clip:ViT-B-16/openai", CLIP)
