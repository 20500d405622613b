from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image

from vitreg.train.confusion_matrix import commonest_mistakes, confusion, draw_confusion


def test_confusion_against_a_loop() -> None:
    torch.manual_seed(0)
    shares, labels = torch.rand(50, 3).softmax(1), torch.randint(0, 3, (50,)).tolist()
    counts = confusion(shares, labels)
    expected = Counter((label, int(share.argmax())) for label, share in zip(labels, shares, strict=True))
    assert {(i, j): int(counts[i, j]) for i in range(3) for j in range(3)} == {
        (i, j): expected[i, j] for i in range(3) for j in range(3)
    }


def test_mistakes_in_words() -> None:
    counts = torch.tensor([[9, 1, 0], [0, 5, 3], [0, 0, 4]])
    assert commonest_mistakes(counts, ["auk", "booby", "crow"]) == [
        "booby taken for crow: 3 of 8",
        "auk taken for booby: 1 of 10",
    ]
    assert commonest_mistakes(torch.eye(3, dtype=torch.int64), "abc") == []


@pytest.mark.parametrize("num_classes", [2, 60, 250])
def test_confusion_is_drawn(num_classes: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    counts = torch.randint(0, 9, (num_classes, num_classes))
    names = [f"class ${number}$ of a long name that goes on" for number in range(num_classes)]
    (tmp_path / "drawn.png").write_bytes(draw_confusion(counts, names, "title"))
    with Image.open(tmp_path / "drawn.png") as picture:
        assert 300 < picture.height < 4000
        assert 0.9 < picture.width / picture.height < 1.4
