"""The self-test of `vitreg doctor` passes on a GPU."""

from __future__ import annotations

import pytest
import torch

from vitreg.cli.self_test import self_test

pytestmark = pytest.mark.gpu


def test_every_check_is_ok(device: torch.device) -> None:
    checks = self_test(device)
    assert checks
    assert [check for check in checks if not check.ok] == []
