import pytest
import torch

from vitreg.functional.precision import autocast_as, autocast_now, without_autocast


def product() -> torch.dtype:
    return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype


def test_without_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert product() == torch.bfloat16
        with without_autocast(torch.ones(1)):
            assert product() == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_same_autocast_later(dtype: torch.dtype) -> None:
    with torch.autocast("cpu", dtype=dtype):
        then = autocast_now(torch.ones(1))
    assert product() == torch.float32
    with autocast_as(torch.ones(1), then):
        assert product() == dtype
    off = autocast_now(torch.ones(1))
    with torch.autocast("cpu", dtype=dtype), autocast_as(torch.ones(1), off):
        assert product() == torch.float32


def test_a_device_without_autocast() -> None:
    meta = torch.ones(1, device="meta")
    assert autocast_now(meta) is None
    with autocast_as(meta, None), without_autocast(meta):
        pass
