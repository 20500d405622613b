"""`attach(fraction=…)`: the penalty of a random part of the pictures, and the source on these alone."""

from __future__ import annotations

import copy
from itertools import combinations

import pytest
import torch
from torch import Tensor, nn

import vitreg
from laws import refuses
from remembered import SIZE, Passes
from small_models import TOWERS, Factory
from vitreg import ArgumentError, MismatchError, StateError, UnsupportedModelError
from vitreg.attachment.rhythm import choice_of_pictures

Pair = tuple[nn.Module, nn.Module]


def chosen(step: int, num_pictures: int, fraction: float = 0.5) -> list[int]:
    choose = choice_of_pictures(step, fraction)
    assert choose is not None
    return choose(num_pictures).tolist()


def value_and_gradient(attachment: vitreg.Attachment, model: nn.Module, **known: object) -> list[Tensor]:
    value = attachment.penalty(**known)
    return [value, *torch.autograd.grad(value, list(model.blocks[0].parameters()))]


def of_all(pair: Pair, images: Tensor, target: object, **known: object) -> list[Tensor]:
    model, source = pair
    with vitreg.attach(model, source, {"all": target}) as attachment:
        model(images)
        return value_and_gradient(attachment, model, **known)


@pytest.mark.parametrize("target", ["attn_logits", "block_output", "features"])
def test_each_draw_is_the_penalty_of_its_pictures_and_their_mean_is_that_of_all(
    pair: Pair, images: Tensor, target: str
) -> None:
    model, source = pair
    step_of = {tuple(chosen(step, 4)): step for step in range(60)}
    assert sorted(step_of) == list(combinations(range(4), 2))
    whole = of_all(pair, images, target)
    found = []
    for rows, step in step_of.items():
        with vitreg.attach(model, source, target, fraction=0.5) as attachment:
            attachment.step = step
            model(images)
            found.append(value_and_gradient(attachment, model))
        torch.testing.assert_close(found[-1], of_all(pair, images[list(rows)], target))
    means = [torch.stack(each).double().mean(0).float() for each in zip(*found, strict=True)]
    torch.testing.assert_close(means, whole)


def test_each_set_of_pictures_is_as_probable() -> None:
    draws = [tuple(chosen(step, 5, 0.4)) for step in range(4000)]
    counts = [draws.count(rows) for rows in combinations(range(5), 2)]
    assert sum(counts) == 4000
    assert counts == pytest.approx([400] * 10, abs=4 * (400 * 0.9) ** 0.5)  # four standard deviations


@pytest.mark.parametrize(("num_pictures", "expected"), [(1, 1), (3, 1), (8, 2), (30, 8), (64, 16)])
def test_at_least_one_picture_is_chosen(num_pictures: int, expected: int) -> None:
    rows = chosen(3, num_pictures, 0.25)
    assert len(rows) == expected
    assert rows == sorted(set(rows))
    assert set(rows) <= set(range(num_pictures))


def test_the_source_sees_the_chosen_pictures_alone(vit: Factory) -> None:
    model, images = vit().train(), torch.randn(16, 3, 32, 32)
    with vitreg.attach(model, fraction=0.25) as attachment:
        passes = Passes(attachment.source)
        for _ in range(3):
            model(images)
            attachment.penalty()
        assert passes.sizes == [4, 4, 4]
        assert "25% of the pictures" in repr(attachment)
        assert "25% of the pictures" in repr(copy.deepcopy(attachment))


def test_a_training_that_goes_on_has_the_same_pictures(pair: Pair, images: Tensor) -> None:
    model, source = pair

    def taken(first: int) -> list[float]:
        values = []
        with vitreg.attach(model, source, every=2, fraction=0.5) as attachment:
            attachment.step = first
            for _ in range(first, 12):
                model(images)
                values.append(attachment.penalty().item())
        return values

    whole = taken(0)
    assert taken(5) == whole[5:]
    assert len({value for value in whole if value}) > 2  # not always the same


def test_a_remembered_source_is_asked_for_the_chosen_views(pair: Pair) -> None:
    model, source = pair
    pictures, places = torch.randn(SIZE, 3, 32, 32), [3, 1, 7, 2]
    cached = vitreg.CachedSource(source, SIZE)
    passes, values = Passes(cached), []
    with vitreg.attach(model, cached, fraction=0.5) as attachment:
        for numbers in (places, torch.tensor(places)):
            attachment.step = 1
            model(pictures[places])
            values.append(attachment.penalty(views=numbers))
    expected, *_ = of_all(pair, pictures[places][chosen(1, 4)], "attn_logits")
    torch.testing.assert_close(values, [expected] * 2)
    assert passes.sizes == [2]


def test_labels_and_passes_are_those_of_the_chosen_pictures(pair: Pair) -> None:
    model, source = pair
    pictures, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    target = vitreg.CoTuning(relation=torch.eye(5).roll(1, 0))
    with vitreg.attach(model, source, target, fraction=0.5) as attachment:
        for image in (pictures, pictures[:2]):  # two passes, of which 2 and 1 pictures are chosen
            model(image)
        given = torch.cat([labels, labels[:2]])
        value = attachment.penalty(labels=given)
    rows, others = chosen(0, 4), chosen(0, 2)
    first, *_ = of_all(pair, pictures[rows], target, labels=labels[rows])
    second, *_ = of_all(pair, pictures[others], target, labels=labels[others])
    torch.testing.assert_close(value, (4 * first + 2 * second) / 6)


def test_passes_are_compared_over_the_same_pictures(vit: Factory) -> None:
    model, images = vit(proj_drop_rate=0.3).train(), torch.randn(4, 3, 32, 32)
    with vitreg.attach(model, target="r_drop", fraction=0.5) as attachment:
        said = [model(images) for _ in range(2)]
        attachment.penalty()
    expected = vitreg.RDrop().value([logits[chosen(0, 4)] for logits in said])
    torch.testing.assert_close(attachment.terms["r_drop"], expected.detach())


@pytest.mark.parametrize("library", sorted(TOWERS))
def test_towers_of_every_library(library: str, images: Tensor) -> None:
    model = TOWERS[library]().train()
    source = vitreg.FrozenSource(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    with vitreg.attach(model, source, "block_output", fraction=0.5) as attachment:
        model(images)
        value = attachment.penalty()
    with vitreg.attach(model, source, "block_output") as attachment:
        model(images[chosen(0, 4)])
        torch.testing.assert_close(value, attachment.penalty())


def test_pictures_that_were_written_over_are_refused(vit: Factory, images: Tensor) -> None:
    model = vit().train()
    with vitreg.attach(model, fraction=0.5) as attachment:
        for way in (lambda: images.add_(1), lambda: images.data.add_(1)):
            model(images)
            way()
            with refuses(StateError, "changed in place"):
                attachment.penalty()


@pytest.mark.parametrize("target", ["bss", "l2sp", "object_guide", ["attn_logits", "l2sp"]])
def test_what_is_no_mean_over_pictures_is_refused(vit: Factory, target: object) -> None:
    with refuses(ArgumentError, "means over pictures", "found", "own", "without fraction"):
        vitreg.attach(vit(), target=target, fraction=0.25)
    vitreg.attach(vit(), target=target, fraction=1).remove()


@pytest.mark.parametrize("fraction", [0, -0.5, 1.5, True, "0.5", float("nan")])
def test_fraction_is_a_share(vit: Factory, fraction: object) -> None:
    with refuses(ArgumentError, "fraction must be"):
        vitreg.attach(vit(), fraction=fraction)


@pytest.mark.parametrize("labels", [None, torch.tensor([0, 1]), torch.tensor(1)])
def test_what_is_given_for_the_chosen_pictures_alone_is_refused(
    pair: Pair, images: Tensor, labels: Tensor | None
) -> None:
    target = vitreg.CoTuning(relation=torch.eye(5))
    with vitreg.attach(*pair, target, fraction=0.5) as attachment:
        pair[0](images)
        with refuses(ArgumentError, "labels", "found"):
            attachment.penalty(labels=labels)


def test_tensors_beside_the_images_are_refused(vit: Factory, images: Tensor) -> None:
    model = vit().train()
    with vitreg.attach(model, target="block_output", fraction=0.5) as attachment:
        model(images, attn_mask=torch.zeros(4, 2, 17, 17))
        with refuses(UnsupportedModelError, "images alone", "Attach without fraction"):
            attachment.penalty()


def test_a_value_that_is_not_of_each_picture_is_refused(vit: Factory, images: Tensor) -> None:
    model = vit().train()
    with vitreg.attach(model, target="block_output", fraction=0.5) as attachment:
        hook = model.blocks[1].register_forward_hook(lambda module, args, output: output[:2])
        model.blocks[2].register_forward_pre_hook(lambda module, args: (args[0].repeat(2, 1, 1),))
        model(images)
        hook.remove()
        with refuses(MismatchError, "one value for each of 4 images", "Attach without fraction"):
            attachment.penalty()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch, where a graph goes on
def test_a_compiled_step_breaks_its_graph_and_draws_anew(pair: Pair, images: Tensor) -> None:
    def taken(compiled: bool) -> list[float]:
        model, source = pair
        with vitreg.attach(model, source, fraction=0.5) as attachment:

            def step(images: Tensor) -> Tensor:
                return model(images).sum() * 0 + attachment.penalty()

            compute = torch.compile(step, backend="eager") if compiled else step
            return [compute(images).item() for _ in range(3)]

    assert taken(compiled=True) == pytest.approx(taken(compiled=False))
