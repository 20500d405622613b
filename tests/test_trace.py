import pytest
import torch
from torch import Tensor, nn

import vitreg
from laws import num_hooks, readable, refuses, unchanged
from vitreg import ArgumentError, StateError
from vitreg.extractors import extractors

NAMES = vitreg.list_extractors()


def test_there_are_extractors() -> None:
    assert NAMES


def test_one_tensor_a_block(tower_model: nn.Module, images: Tensor) -> None:
    prefix = 5 if getattr(tower_model, "reg_token", None) is not None else 1
    shapes = {
        "attn_logits": [4, 2, 16],
        "attn_probs": [4, 2, 16],
        "msa_output": [4, 16 + prefix, 16],
        "block_output": [4, 16 + prefix, 16],
        "cls_output": [4, 16],
        "patch_output": [4, 16, 16],
        "pooled_output": [4, 16],
        "queries": [4, 2, 16 + prefix, 8],
        "keys": [4, 2, 16 + prefix, 8],
        "values": [4, 2, 16 + prefix, 8],
    }
    names = readable(tower_model)
    assert set(shapes) < set(names)
    with unchanged(tower_model):
        with vitreg.trace(tower_model, *names) as trace:
            tower_model(images)
            assert set(trace) == set(names)
            assert len(trace) == len(names)
            for name in names:
                assert len(trace[name]) == (3 if extractors[name].per_block else 1)
                assert all(value.requires_grad for value in trace[name])
            for name, shape in shapes.items():
                assert [list(value.shape) for value in trace[name]] == [shape] * 3
            assert trace["features"][0].shape[0] == 4
            assert trace["features"][0].dim() == 2
        assert trace["attn_logits"][0].shape == (4, 2, 16), "the last values can be looked at afterwards"


def test_outputs_are_bit_identical(tower_model: nn.Module, images: Tensor) -> None:
    tower_model.eval()
    before = tower_model(images)
    with vitreg.trace(tower_model, *readable(tower_model)):
        during = tower_model(images)
    assert torch.equal(before, during)
    assert torch.equal(before, tower_model(images))


def test_fused_attention_stays_on(vit: object, images: Tensor) -> None:
    model = vit()
    with vitreg.trace(model, "attn_logits"):
        assert all(block.attn.fused_attn for block in model.blocks)


def test_layers(vit: object, images: Tensor) -> None:
    model = vit()
    with (
        vitreg.trace(model, "block_output") as whole,
        vitreg.trace(model, "block_output", layers=[-1, 0]) as two,
    ):
        model(images)
    assert len(two["block_output"]) == 2
    assert torch.equal(two["block_output"][0], whole["block_output"][0])
    assert torch.equal(two["block_output"][1], whole["block_output"][2])


def test_layers_beside_one_value_a_pass(vit: object, images: Tensor) -> None:
    model = vit()
    with vitreg.trace(model, "block_output", "features", layers=1) as trace:
        model(images)
    assert len(trace["block_output"]) == len(trace["features"]) == 1


def test_only_what_is_read_is_hooked(vit: object) -> None:
    model = vit()
    with vitreg.trace(model, "block_output", layers=1):
        assert num_hooks(model) == 2, "the stem and one block"
        assert num_hooks(model.blocks[1]) == 1


def test_each_pass_replaces_the_one_before(vit: object, images: Tensor) -> None:
    model = vit()
    with vitreg.trace(model, "features") as trace:
        model(images)
        first = trace["features"][0]
        model(images + 1)
        assert not torch.equal(trace["features"][0], first)


@pytest.mark.parametrize("training", [True, False])
def test_in_either_mode_and_without_gradients(vit: object, images: Tensor, training: bool) -> None:
    model = vit().train(training)
    with vitreg.trace(model, *NAMES) as trace, torch.no_grad():
        model(images)
    assert not any(value.requires_grad for name in NAMES for value in trace[name])


def test_inside_another_model(vit: object, clip: object, images: Tensor) -> None:
    inner, whole = vit(), clip()
    wrapped = nn.Sequential(nn.Identity(), inner, nn.Linear(5, 2))
    with vitreg.trace(wrapped, "attn_logits") as trace:
        wrapped(images)
    assert len(trace["attn_logits"]) == 3
    with unchanged(whole), vitreg.trace(whole, "attn_logits") as trace:
        whole.encode_image(images)
        alone = trace["attn_logits"][0]
        whole(images, torch.ones(4, 8, dtype=torch.long))
        torch.testing.assert_close(trace["attn_logits"][0], alone)


def test_not_before_a_pass(vit: object, images: Tensor) -> None:
    model = vit()
    with (
        vitreg.trace(model, "features") as trace,
        refuses(StateError, "features", "none was seen", "Run the"),
    ):
        trace["features"]


def test_not_after_a_pass_cut_short(vit: object, images: Tensor) -> None:
    model = vit()

    class CutError(Exception):
        pass

    def cut(*_: object) -> None:
        raise CutError

    with unchanged(model), vitreg.trace(model, "attn_logits") as trace:
        model(images)
        handle = model.blocks[1].register_forward_pre_hook(cut)
        with pytest.raises(CutError):
            model(images)
        handle.remove()
        with refuses(StateError, "attn_logits", "cut short"):
            trace["attn_logits"]
        model(images)
        assert len(trace["attn_logits"]) == 3


def test_an_error_inside_leaves_no_hook(vit: object) -> None:
    model = vit()
    with unchanged(model), pytest.raises(ZeroDivisionError), vitreg.trace(model, *NAMES):
        raise ZeroDivisionError


def test_only_names_that_are_traced(vit: object, images: Tensor) -> None:
    model = vit()
    with vitreg.trace(model, "attn_logits") as trace:
        model(images)
        with refuses(ArgumentError, "'attn_logit'", "not traced", "Did you mean 'attn_logits'?"):
            trace["attn_logit"]


def test_bad_names(vit: object) -> None:
    model = vit()
    with unchanged(model):
        with refuses(ArgumentError, "Name what to read", *NAMES):
            vitreg.trace(model).__enter__()
        with refuses(ArgumentError, "twice", "features"):
            vitreg.trace(model, "features", "features").__enter__()
        with refuses(ArgumentError, "'attn_logit'", "Did you mean 'attn_logits'?"):
            vitreg.trace(model, "attn_logit").__enter__()
        with refuses(ArgumentError, "string", "int"):
            vitreg.trace(model, 3).__enter__()
        with refuses(ArgumentError, "between -3 and 2", "got 3"):
            vitreg.trace(model, "attn_logits", layers=3).__enter__()
        with refuses(ArgumentError, "query", "'cls', 'mean'", "'patches'"):
            vitreg.trace(model, "attn_logits", query="patches").__enter__()


def test_a_trace_that_is_never_entered_hooks_nothing(vit: object) -> None:
    model = vit()
    with unchanged(model):
        vitreg.trace(model, "attn_logits")
