from __future__ import annotations

from collections import Counter

import torch
from torchmetrics.functional.classification import multiclass_confusion_matrix

from vitreg.train.page.probabilities import commonest_mistakes, confusion


def test_confusion_against_a_loop() -> None:
    torch.manual_seed(0)
    shares, labels = torch.rand(50, 3).softmax(1), torch.randint(0, 3, (50,)).tolist()
    counts = confusion(shares, labels)
    expected = Counter((label, int(share.argmax())) for label, share in zip(labels, shares, strict=True))
    assert {(i, j): int(counts[i, j]) for i in range(3) for j in range(3)} == {
        (i, j): expected[i, j] for i in range(3) for j in range(3)
    }
    assert torch.equal(counts, multiclass_confusion_matrix(shares, torch.tensor(labels), num_classes=3))


def test_mistakes_in_words() -> None:
    counts = torch.tensor([[9, 1, 0], [0, 5, 3], [0, 0, 4]])
    assert commonest_mistakes(counts, ["auk", "booby", "crow"]) == [
        "booby taken for crow: 3 of 8",
        "auk taken for booby: 1 of 10",
    ]
    assert commonest_mistakes(torch.eye(3, dtype=torch.int64), "abc") == []
