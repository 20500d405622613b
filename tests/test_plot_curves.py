"""Curves and bars: drift, attention on the object, accuracy against λ and steps."""

from __future__ import annotations

import matplotlib
import matplotlib.style
import pytest
import torch
from matplotlib.colors import to_rgb

import vitreg.plot as plot
from laws import refuses
from plotted import luminance
from vitreg import ArgumentError
from vitreg.plot.style import looks

pytestmark = pytest.mark.usefixtures("everything_can_be_drawn")


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


def test_dark_mode_and_many_curves() -> None:
    with matplotlib.style.context("dark_background"):
        figure = plot.object_share({"source": [0.5], "target": [0.4]})
        assert to_rgb(figure.axes[0].get_lines()[0].get_color()) == (1, 1, 1)
        assert to_rgb(figure.get_facecolor()) == (0, 0, 0)
    assert len(set(looks(15))) == 15


def test_every_colour_is_seen_on_white_and_on_black() -> None:
    for colour, _ in looks(8)[1:]:
        assert 1.05 / (luminance(colour) + 0.05) > 2
        assert (luminance(colour) + 0.05) / 0.05 > 2.5
