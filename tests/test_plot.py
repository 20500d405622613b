"""Pictures of attention and of its measures."""

from __future__ import annotations

import importlib
import subprocess
import sys

import matplotlib
import matplotlib.style
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from torch import Tensor

import vitreg
import vitreg.plot as plot
from laws import refuses
from plotted import luminance
from small_models import make_vit, shake
from vitreg import ArgumentError
from vitreg.plot.pictures import GREY, HEAT, enlarge, in_grey, lay_heat, to_show

pytestmark = pytest.mark.usefixtures("everything_can_be_drawn")


@pytest.fixture
def pictures() -> Tensor:
    return torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)


def drawn(axes: Axes) -> Tensor:
    """Return the picture that a panel shows."""
    return torch.as_tensor(axes.get_images()[0].get_array())


def titles(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes]


def names(figure: Figure) -> list[str]:
    return [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]


def test_heat_is_half_transparent_over_grey() -> None:
    picture, heat = torch.rand(20, 30, 3), torch.rand(20, 30)
    image, grey, colours = lay_heat(picture, heat), in_grey(picture), matplotlib.colormaps[HEAT]
    assert image.shape == (20, 30, 3)
    for row, column in ((0, 0), (7, 29), (19, 3)):
        expected = [0.5 * c + 0.5 * float(grey[row, column]) for c in colours(float(heat[row, column]))[:3]]
        assert image[row, column].tolist() == pytest.approx(expected, abs=1e-6)
    shades = lay_heat(torch.full((1, 50, 3), 0.3), torch.linspace(0, 1, 50)[None])[0]
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
    heat = enlarge(attention, (10, 10), saturated=0.1).flatten()
    assert int((heat == 1).sum()) == 10
    assert heat[1] < heat[50] < heat[89] <= 1
    assert enlarge(attention, (10, 10)).flatten()[50] < 1e-3  # without: none but one
    assert bool((enlarge(torch.zeros(10, 10), (10, 10)) == 0).all())
    few = torch.zeros(10, 10)
    few[3, 3] = 1  # fewer than a tenth
    assert enlarge(few, (10, 10), saturated=0.1).max() == 1
    assert enlarge(attention, (64, 48)).shape == (64, 48)


def test_what_is_shown(pictures: Tensor) -> None:
    images = 3 * torch.randn(2, 3, 32, 32) + 1
    stretched = to_show(None, images)
    assert stretched.shape == (2, 32, 32, 3)
    assert [(float(p.min()), float(p.max())) for p in stretched] == [(0, 1), (0, 1)]
    torch.testing.assert_close(to_show(pictures, images), pictures.permute(0, 2, 3, 1) / 255)
    torch.testing.assert_close(to_show(pictures / 255, images), pictures.permute(0, 2, 3, 1) / 255)
    grey = to_show(None, torch.rand(2, 1, 8, 8))
    assert torch.equal(grey[..., 0], grey[..., 2])
    for wrong in (pictures[:1], pictures[0], pictures.int(), images, "picture"):
        with refuses(ArgumentError, "pictures"):
            to_show(wrong, images)


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
    torch.testing.assert_close(drawn(figure.axes[3]), lay_heat(base[1], enlarge(maps["one"][1], (32, 32))))
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


def test_several_pictures_are_columns(images: Tensor) -> None:
    source, target = shake(make_vit()), make_vit()
    figure = plot.attention({"source": source, "target": target}, images, layers=[0, -1])
    assert len(figure.axes) == 5 * len(images) + 1
    lines = ["source\nblock 0", "source\nblock 2", "target\nblock 0", "target\nblock 2"]
    assert names(figure) == ["picture", *lines]
    last = vitreg.measure.attention_maps(source, images, layers=-1)[0].mean(1)
    expected = lay_heat(to_show(None, images)[1], enlarge(last[1], (32, 32), saturated=0.1))
    torch.testing.assert_close(drawn(figure.axes[2 * len(images) + 1]), expected)


def test_one_picture_has_a_panel_a_block_and_head(images: Tensor) -> None:
    model = shake(make_vit())
    figure = plot.attention(model, images[:1], layers="all", heads="each")
    panels = [f"block {block}, head {head}" for block in range(3) for head in range(2)]
    assert [title for title in titles(figure) if title] == ["picture", *panels]
    one = vitreg.measure.attention_maps(model, images[:1])[1][0, 1]
    at = figure.axes[1 + panels.index("block 1, head 1")]
    expected = lay_heat(to_show(None, images)[0], enlarge(one, (32, 32), saturated=0.1))
    torch.testing.assert_close(drawn(at), expected)
    assert len(plot.attention({"a": model, "b": model}, images[:1]).axes) == 5
    many = plot.attention(make_vit(depth=9), images[:1], layers="all")
    assert [title for title in titles(many) if title] == ["picture", *(f"block {i}" for i in range(9))]


def test_rollout_is_drawn(images: Tensor) -> None:
    model = shake(make_vit())
    figure = plot.rollout(model, images, saturated=0)
    rollout = vitreg.measure.attention_rollout(model, images)[0]
    expected = lay_heat(to_show(None, images)[0], enlarge(rollout, (32, 32)))
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
