"""Pictures of attention and of its measures."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator

import matplotlib
import matplotlib.style
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from torch import Tensor

import vitreg
import vitreg.plot as plot
from laws import refuses
from small_models import make_vit, shake
from vitreg import ArgumentError
from vitreg.plot.pictures import GREY, HEAT, heated, in_grey, scaled, shown
from vitreg.plot.style import looks


@pytest.fixture
def pictures() -> Tensor:
    return torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)


@pytest.fixture(autouse=True)
def everything_can_be_drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Draw each figure that a test makes, as a notebook would."""
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


def drawn(axes: Axes) -> Tensor:
    """Return the picture that a panel shows."""
    return torch.as_tensor(axes.get_images()[0].get_array())


def titles(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes]


def names(figure: Figure) -> list[str]:
    return [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]


# Pictures


def test_heat_is_half_transparent_over_grey() -> None:
    picture, heat = torch.rand(20, 30, 3), torch.rand(20, 30)
    image, grey, colours = heated(picture, heat), in_grey(picture), matplotlib.colormaps[HEAT]
    assert image.shape == (20, 30, 3)
    for row, column in ((0, 0), (7, 29), (19, 3)):
        expected = [0.5 * c + 0.5 * float(grey[row, column]) for c in colours(float(heat[row, column]))[:3]]
        assert image[row, column].tolist() == pytest.approx(expected, abs=1e-6)
    shades = heated(torch.full((1, 50, 3), 0.3), torch.linspace(0, 1, 50)[None])[0]
    lightness = [luminance(shade.tolist()) for shade in shades]
    assert lightness == sorted(lightness)  # so that it is read without colours


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.1), (0.9, 1.0), (0.0, 1.0)])
def test_a_dark_or_a_pale_picture_is_seen(low: float, high: float) -> None:
    picture = torch.linspace(low, high, 400)[:, None].expand(400, 3).view(20, 20, 3)
    grey = in_grey(picture)
    assert float(grey.min()) == pytest.approx(GREY[0], abs=1e-5)
    assert float(grey.max()) == pytest.approx(GREY[1], abs=1e-5)
    assert bool((in_grey(torch.zeros(4, 4, 3)) == GREY[0]).all())


def test_one_large_patch_does_not_leave_the_others_dark() -> None:
    attention = torch.arange(100.0).view(10, 10)
    attention[0, 0] = 1e6
    heat = scaled(attention, (10, 10), saturated=0.1).flatten()
    assert int((heat == 1).sum()) == 10
    assert heat[1] < heat[50] < heat[89] <= 1
    assert scaled(attention, (10, 10)).flatten()[50] < 1e-3  # without: none but one
    assert bool((scaled(torch.zeros(10, 10), (10, 10)) == 0).all())
    few = torch.zeros(10, 10)
    few[3, 3] = 1  # fewer than a tenth
    assert scaled(few, (10, 10), saturated=0.1).max() == 1
    assert scaled(attention, (64, 48)).shape == (64, 48)


def test_what_is_shown(pictures: Tensor) -> None:
    images = 3 * torch.randn(2, 3, 32, 32) + 1
    stretched = shown(None, images)
    assert stretched.shape == (2, 32, 32, 3)
    assert [(float(p.min()), float(p.max())) for p in stretched] == [(0, 1), (0, 1)]
    torch.testing.assert_close(shown(pictures, images), pictures.permute(0, 2, 3, 1) / 255)
    torch.testing.assert_close(shown(pictures / 255, images), pictures.permute(0, 2, 3, 1) / 255)
    grey = shown(None, torch.rand(2, 1, 8, 8))
    assert torch.equal(grey[..., 0], grey[..., 2])
    for wrong in (pictures[:1], pictures[0], pictures.int(), images, "picture"):
        with refuses(ArgumentError, "pictures"):
            shown(wrong, images)


def test_overlay_has_a_column_a_picture_and_a_line_a_map(pictures: Tensor) -> None:
    maps = {"one": torch.rand(2, 4, 4), "$two": torch.rand(2, 2, 2)}
    objects = torch.zeros(2, 32, 32, dtype=torch.bool)
    objects[0, 4:20, 8:30] = True  # the second picture has none
    given = {"objects": objects, "saturated": 0, "caption": "said", "titles": ["✓ auk", "✗ $crow"]}
    figure = plot.overlay(pictures, maps, **given)
    assert len(figure.axes) == 7  # the last is the scale
    assert titles(figure)[:2] == ["✓ auk", r"✗ \$crow"]
    with refuses(ArgumentError, "a title for each of 2 pictures, found 1"):
        plot.overlay(pictures, maps, titles=["auk"])
    assert names(figure) == ["picture", "one", r"\$two"]
    assert figure.get_supxlabel() == "said"
    base = pictures.permute(0, 2, 3, 1) / 255
    torch.testing.assert_close(drawn(figure.axes[1]), base[1])
    torch.testing.assert_close(drawn(figure.axes[3]), heated(base[1], scaled(maps["one"][1], (32, 32))))
    outlined = [len(axes.collections) for axes in figure.axes[:6]]
    assert outlined == [1, 0, 2, 1, 2, 1]  # contours of the heat, and of the first picture's object


def test_what_cannot_be_laid_over(pictures: Tensor) -> None:
    good = {"one": torch.rand(2, 4, 4)}
    with refuses(ArgumentError, "at least one map"):
        plot.overlay(pictures, {})
    for wrong in (
        torch.rand(1, 4, 4),
        torch.rand(2, 16),
        -torch.rand(2, 4, 4),
        torch.full((2, 4, 4), torch.nan),
    ):
        with refuses(ArgumentError, "'one'"):
            plot.overlay(pictures, {"one": wrong})
    with refuses(ArgumentError, "bool masks"):
        plot.overlay(pictures, good, objects=torch.zeros(2, 32, 32))
    for maps, objects in (({"one": good["one"].numpy()}, None), (good, [1])):
        with refuses(ArgumentError, "a tensor"):
            plot.overlay(pictures, maps, objects=objects)
    for share in (1.0, -0.1, True, "much"):
        with refuses(ArgumentError, "saturated"):
            plot.overlay(pictures, good, saturated=share)


# Attention


def test_several_pictures_are_columns(images: Tensor) -> None:
    source, target = shake(make_vit()), make_vit()
    figure = plot.attention({"source": source, "target": target}, images, layers=[0, -1])
    assert len(figure.axes) == 5 * len(images) + 1
    lines = ["source\nblock 0", "source\nblock 2", "target\nblock 0", "target\nblock 2"]
    assert names(figure) == ["picture", *lines]
    last = vitreg.measure.attention_maps(source, images, layers=-1)[0].mean(1)
    expected = heated(shown(None, images)[1], scaled(last[1], (32, 32), saturated=0.1))
    torch.testing.assert_close(drawn(figure.axes[2 * len(images) + 1]), expected)


def test_one_picture_has_a_panel_a_block_and_head(images: Tensor) -> None:
    model = shake(make_vit())
    figure = plot.attention(model, images[:1], layers="all", heads="each")
    panels = [f"block {block}, head {head}" for block in range(3) for head in range(2)]
    assert [title for title in titles(figure) if title] == ["picture", *panels]
    one = vitreg.measure.attention_maps(model, images[:1])[1][0, 1]
    at = figure.axes[1 + panels.index("block 1, head 1")]
    expected = heated(shown(None, images)[0], scaled(one, (32, 32), saturated=0.1))
    torch.testing.assert_close(drawn(at), expected)
    assert len(plot.attention({"a": model, "b": model}, images[:1]).axes) == 5
    many = plot.attention(make_vit(depth=9), images[:1], layers="all")
    assert [title for title in titles(many) if title] == ["picture", *(f"block {i}" for i in range(9))]


def test_rollout_is_drawn(images: Tensor) -> None:
    model = shake(make_vit())
    figure = plot.rollout(model, images, saturated=0)
    rollout = vitreg.measure.attention_rollout(model, images)[0]
    expected = heated(shown(None, images)[0], scaled(rollout, (32, 32)))
    torch.testing.assert_close(drawn(figure.axes[len(images)]), expected)


def test_whose_attention(images: Tensor) -> None:
    model = make_vit(class_token=False, global_pool="map")
    assert "patches" in str(plot.attention(model, images, query="mean").get_supxlabel())
    figure = plot.attention(model, images[:1], query="pool")
    assert titles(figure)[:-1] == ["picture", ""]
    assert len(plot.attention(model, images[:1], query="pool", heads="each").axes) == 4
    with refuses(ArgumentError, "heads"):
        plot.attention(model, images, heads="all")
    for models in ({}, {3: model}):
        with refuses(ArgumentError, "by title"):
            plot.attention(models, images)


# Measures


def test_drift_has_one_scale() -> None:
    small, large = torch.rand(4, 3) / 2, torch.rand(4, 3)
    figure = plot.drift({"GTA": small, "fine-tuning": list(large)}, [0, 5, 10, 100])
    left, right, bar = figure.axes
    assert (left.get_title(loc="left"), right.get_title(loc="left")) == ("GTA", "fine-tuning")
    for axes, values in ((left, small), (right, large)):
        (image,) = axes.get_images()
        torch.testing.assert_close(torch.as_tensor(image.get_array()), values.T)
        assert image.get_clim() == (0, float(torch.cat([small, large]).max()))
    assert [label.get_text() for label in left.get_xticklabels()] == ["0", "5", "10", "100"]
    assert "moved" in bar.get_ylabel()
    plot.drift(torch.zeros(30, 24), range(30))
    wrong = [(small, [0, 1]), ([[0.1], [0.1, 0.2]], [0, 1]), ({}, [0]), ({}, []), ([0.1, 0.2], [0, 1])]
    wrong += [(torch.rand(3), [0, 1, 2]), (torch.rand(2, 0), [0, 1]), (torch.full((1, 3), torch.nan), [0])]
    for values, steps in wrong:
        with refuses(ArgumentError, "Expected"):
            plot.drift(values, steps)


def test_object_share_of_each_block() -> None:
    figure = plot.object_share({"source": torch.tensor([0.1, 0.5]), "target": [0.1, 0.2]})
    first, second = figure.axes[0].get_lines()
    assert first.get_ydata().tolist() == pytest.approx([10, 50])
    assert second.get_label() == "target"
    assert (first.get_marker(), first.get_linestyle()) != (second.get_marker(), second.get_linestyle())
    assert plot.object_share({"_model": [0.1], "b": [0.2]}).legends[0].get_texts()[0].get_text() == " _model"
    for wrong in ({}, {"a": torch.rand(2, 3)}, {"a": [50.0, 60.0]}, {"a": []}, torch.rand(3)):
        with refuses(ArgumentError, "Expected"):
            plot.object_share(wrong)


def test_accuracy_against_lam() -> None:
    figure = plot.against_lam({"GTA": [(10, 52, 1), (0.1, 41)]}, baseline={"fine-tuning": 40})
    (axes,) = figure.axes
    points, level = axes.containers[0].lines[0], axes.get_lines()[-1]
    assert list(points.get_xdata()) == [0.1, 10]
    assert list(points.get_ydata()) == [41, 52]
    assert set(level.get_ydata()) == {40}
    assert axes.get_xscale() == "log"
    low, high = axes.get_xlim()
    assert low < 0.1
    assert high > 10
    assert plot.against_lam({"GTA": [(0, 40), (1, 41)]}).axes[0].get_xscale() == "symlog"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["fine-tuning", "GTA"]
    unusable = ({}, *({"GTA": points} for points in ([], [(1,)], [(-1, 40)], [(1, 2, None)], [1, 2])))
    for wrong in unusable:
        with refuses(ArgumentError, "λ" if wrong.get("GTA") == [(-1, 40)] else "Expected"):
            plot.against_lam(wrong)


def test_accuracy_against_steps() -> None:
    figure = plot.against_steps(
        {"GTA": [(10, 52, 1), (20, 53, 2)], "fine-tuning": [(10, 50)]}, what="Jaccard"
    )
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("training steps", "Jaccard")
    assert len(axes.containers) == 2
    with refuses(ArgumentError, "'GTA'"):
        plot.against_steps({"GTA": []})


# For everybody's eyes


def test_dark_mode_and_many_curves() -> None:
    with matplotlib.style.context("dark_background"):
        figure = plot.object_share({"source": [0.5], "target": [0.4]})
        assert to_rgb(figure.axes[0].get_lines()[0].get_color()) == (1, 1, 1)
        assert to_rgb(figure.get_facecolor()) == (0, 0, 0)
    assert len(set(looks(15))) == 15


def luminance(colour: object) -> float:
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in to_rgb(colour)]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_every_colour_is_seen_on_white_and_on_black() -> None:
    for colour, _ in looks(8)[1:]:
        assert 1.05 / (luminance(colour) + 0.05) > 2
        assert (luminance(colour) + 0.05) / 0.05 > 2.5


def test_nothing_is_imported_that_was_not_asked_for() -> None:
    program = "import sys, vitreg; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("vitreg.plot")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r"vitreg\[plot\]"):
        importlib.import_module("vitreg.plot")


def test_what_no_figure_can_hold(images: Tensor) -> None:
    model = make_vit()
    with refuses(ArgumentError, "up to 40 pictures, found 41"):
        plot.attention(model, torch.randn(41, 3, 32, 32))
    with refuses(ArgumentError, "up to 40 pictures, found 41"):
        plot.overlay(torch.rand(41, 3, 32, 32), {"one": torch.rand(41, 4, 4)})
    broken = make_vit()
    torch.nn.init.constant_(broken.cls_token, torch.nan)
    with refuses(ArgumentError, "broken (block 2) is not finite"):
        plot.attention({"broken": broken}, images)


def test_words_stay_inside_the_figure(images: Tensor) -> None:
    figures = [plot.attention(make_vit(), images[:count]) for count in (1, 2)]
    for figure in figures:
        figure.canvas.draw()
        (said,) = [
            text for text in figure.findobj(Text) if text.get_text().startswith("attention of the class")
        ]
        box = said.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1
    long = plot.attention({"deit_tiny_patch16_224_fp16.safetensors": make_vit()}, images)
    assert names(long)[1] == "deit_tiny_p…afetensors\nblock 2"


def test_only_what_patches_cover_is_lit() -> None:
    model = make_vit(img_size=40, patch_size=16)
    figure = plot.attention(model, torch.randn(2, 3, 40, 40), pictures=torch.rand(2, 3, 80, 80))
    assert drawn(figure.axes[0]).shape == (80, 80, 3)
    assert drawn(figure.axes[2]).shape == (64, 64, 3)
