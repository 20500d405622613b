"""What the installed timm and transformers list is in the support table, or known not to be a tower."""

from __future__ import annotations

import warnings
from fnmatch import fnmatchcase

import pytest
import timm
import torch
import transformers
from timm.models import _registry as timm_registry
from torch import nn
from transformers.models.auto import modeling_auto as automatic

import vitreg
from support_refused import SMALL_ONES, TIMM_WITHOUT_ATTENTION, refusals
from support_table import read_table

ROWS = read_table()
NEW = "Add it to the support table (tests/support_table.py), or to tests/support_refused.py: "


def in_table(library: str) -> set[str]:
    return {row.name for row in ROWS if row.library == library}


def has_no_attention(name: str) -> bool:
    """Return whether a model of timm is of a family without attention between tokens."""
    file = timm_registry._model_to_module[name]
    return any(fnmatchcase(name, pattern) for pattern in TIMM_WITHOUT_ATTENTION.get(file, ()))


def listed_by_transformers() -> set[str]:
    kinds = (
        "IMAGE",
        "IMAGE_CLASSIFICATION",
        "ZERO_SHOT_IMAGE_CLASSIFICATION",
        "MASKED_IMAGE_MODELING",
        "BACKBONE",
    )
    found: set[str] = set()
    for kind in kinds:
        for names in getattr(automatic, f"MODEL_FOR_{kind}_MAPPING_NAMES", {}).values():
            found |= set(names) if isinstance(names, tuple) else {names}
    assert len(found) > 30
    return found


def test_every_model_of_timm_is_known() -> None:
    names = timm.list_models()
    assert len(names) > 1000
    unknown = {name for name in names if not has_no_attention(name)} - in_table("timm")
    assert not unknown, NEW + ", ".join(sorted(unknown))


def test_no_model_of_timm_is_both_read_and_left_out() -> None:
    assert not {name for name in timm.list_models() if has_no_attention(name)} & in_table("timm")


def test_every_model_of_transformers_is_known() -> None:
    unknown = listed_by_transformers() - in_table("transformers")
    assert not unknown, NEW + ", ".join(sorted(unknown))


def test_a_new_name_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(timm_registry._model_to_module, "vit_new_patch16_224", "vision_transformer")
    monkeypatch.setattr(timm, "list_models", lambda: [*timm_registry._model_to_module, "vit_new_patch16_224"])
    with pytest.raises(AssertionError, match=r"support_refused.py: .*vit_new_patch16_224"):
        test_every_model_of_timm_is_known()
    monkeypatch.setitem(automatic.MODEL_FOR_IMAGE_MAPPING_NAMES, "new", "NewModel")
    with pytest.raises(AssertionError, match="NewModel"):
        test_every_model_of_transformers_is_known()


def small(name: str) -> nn.Module | None:
    """Return a class's model, small if its configuration allows it, or None where it cannot be built."""
    cls = getattr(transformers, name)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64}
    for options in (sizes, {}):
        try:
            return cls(cls.config_class(**options))
        except Exception:  # noqa: PERF203  # each configuration has arguments of its own
            continue
    return None


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL_ONES)
def test_what_is_said_to_be_refused_is_refused(name: str) -> None:
    assert name in refusals()
    if not hasattr(transformers, name):
        pytest.skip(f"this version of transformers has no {name}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = small(name)
    if model is None:
        pytest.skip("it needs another library, or arguments of its own")
    with torch.no_grad(), pytest.raises(vitreg.UnsupportedModelError):
        vitreg.describe(model.eval())
