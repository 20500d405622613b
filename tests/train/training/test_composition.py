"""Methods composed of parts: one spelling whatever the order, each pair of kinds trained or refused."""

from __future__ import annotations

import itertools
import math
from dataclasses import MISSING, fields, replace
from functools import cache
from pathlib import Path

import pytest
import timm
import torch
from accelerate import Accelerator
from torch import Tensor

import vitreg
from small_data import MODEL, SIZE
from small_runs import HYPER, planned, write_pictures
from vitreg.errors import InputError
from vitreg.penalties.base import Penalty
from vitreg.projections import projections
from vitreg.train.runs.run import trained_model
from vitreg.train.training.composition import _FIELD_OF, _REFUSED, kinds_of
from vitreg.train.training.formulas import formula
from vitreg.train.training.guided_model import Applied
from vitreg.train.training.methods import METHODS, SOURCE, check_methods, guide_of, is_guided, usual_lam

OF_KIND = {
    "head": "LP-FT",
    "interpolation": "WiSE-FT",
    "adapters": "LoRA",
    "part of the model": "attention-only",
    "rates by layer": "layer-decay",
    "penalty": "GTA",
    "projection": "FTP",
    "mixing": "TransMix",
}
"""A part of each kind."""

PAIRS = [
    (one, other)
    for one, other in itertools.combinations(OF_KIND, 2)
    if (one, other) not in _REFUSED and (one, other) != ("head", "interpolation")
]


def test_there_is_a_part_of_each_kind() -> None:
    assert list(OF_KIND) == list(_FIELD_OF)
    for kind, part in OF_KIND.items():
        assert kind in kinds_of(METHODS[part])
    assert set(_REFUSED) < set(itertools.combinations(OF_KIND, 2))
    assert len(PAIRS) > 20


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("spd + gta+lp-ft", "LP-FT+GTA+SPD"),
        ("TransMix", "fine-tune+TransMix"),
        ("TransMix+LP-FT+fine-tune", "LP-FT+TransMix"),
        ("LP-FT+WiSE-FT", "WiSE-FT"),
        ("fine-tune+GTA", "GTA"),
        ("TransMix+FTP+GTA+attention-only+WiSE-FT", "WiSE-FT+attention-only+GTA+FTP+TransMix"),
    ],
)  # fmt: skip
def test_one_spelling(written: str, stored: str) -> None:
    parts = written.split("+")
    for order in itertools.islice(itertools.permutations(parts), 24):
        assert check_methods(["+".join(order)]) == (stored,)
    assert check_methods([written, stored]) == (stored,)
    assert METHODS[written] == METHODS[stored]


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("GTA+BSS", "GTA and BSS are both the penalty; name one"),
        ("SPD+FTP", "SPD and FTP are both the projection; name one"),
        ("GTA+gta", "GTA is there twice; name it once"),
        ("LoRA+attention-only", "LoRA and attention-only cannot be combined: adapters leave all weights"),
        ("layer-decay+LoRA", "LoRA and layer-decay cannot be combined: adapters have one learning rate"),
        ("LoRA+L2-SP", "LoRA and L2-SP cannot be combined: the weights that L2-SP holds are frozen"),
        ("MARS+GTA", "GTA and MARS cannot be combined: each has a λ of its own"),
        ("linear-probe+SPD", "linear-probe trains nothing by gradients"),
        ("LP-FT+GTAA", "unknown method 'GTAA' in 'LP-FT.GTAA'; did you mean GTA?"),
        ("GTA+", "unknown method '' in"),
    ],
)  # fmt: skip
def test_what_is_refused(written: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_methods([written])


def test_rows_that_were_there_keep_their_identity() -> None:
    assert len(METHODS) > 50
    for name in METHODS:
        assert check_methods([name]) == (name,)
    assert formula("LP-FT+LoRA+GTA+TransMix") == ""
    assert formula("GTA+SPD") not in ("", formula("GTA+FTP"))
    assert "GTA+SPD" not in METHODS, "what was asked for is not listed"


def test_without_a_lam_a_row_and_its_penalty_have_the_same() -> None:
    rows = [name for name in METHODS if METHODS[name].target and name != SOURCE]
    assert {"GTA", "R-Drop", "Co-tuning", "L2-SP"} < set(rows)
    for name in rows:
        penalty = METHODS[name].target(usual_lam(name))  # type: ignore[misc]
        assert isinstance(penalty, Penalty)
        assert penalty.lam == type(penalty)(**_needed(penalty)).lam, name


def _needed(penalty: Penalty) -> dict[str, object]:
    """Return the options of a penalty that have no default."""
    return {f.name: getattr(penalty, f.name) for f in fields(penalty) if f.init and f.default is MISSING}


def test_every_projection_is_a_part() -> None:
    found = {type(METHODS[part].projection(2.0)) for part in ("SPD", "FTP", "MARS", "L2Ball")}
    assert found == {projections[name] for name in vitreg.list_projections()}
    assert METHODS["MARS"].projection(4.0) == vitreg.MARS(radius=0.25)
    assert METHODS["L2Ball"].projection(0.0) == vitreg.L2Ball(radius=math.inf)
    assert not METHODS["SPD"].has_weight_decay
    assert [is_guided(name) for name in ("SPD", "L2Ball", "GTA+SPD", "source")] == [False, True, True, False]
    assert guide_of("attention-only+GTA+SPD+TransMix") == "GTA"


@pytest.mark.parametrize(("method", "lam"), [("L2Ball", 100.0), ("LoRA+L2Ball", 100.0), ("GTA+FTP", 1.0)])
def test_a_projection_is_at_work_until_the_method_is_undone(method: str, lam: float) -> None:
    torch.manual_seed(0)
    model = timm.create_model(MODEL, num_classes=3, img_size=SIZE).train()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    with Applied(model, method, lam, HYPER, num_classes=3) as applied:
        optimizer = torch.optim.SGD(model.parameters(), lr=10.0)
        applied.project(optimizer)
        assert applied.projector is not None
        loss = model(torch.randn(2, 3, SIZE, SIZE)).square().sum() + applied.penalty()
        loss.backward()
        optimizer.step()
        if method == "LoRA+L2Ball":
            for name, p in model.named_parameters():
                assert "lora_" not in name or p.norm() <= 0.0101
    assert not optimizer._optimizer_step_post_hooks
    for name, value in model.state_dict().items():
        distance = (value - start[name]).norm().item()
        assert distance > 1 if name.startswith("head.") else distance <= 0.0101, name


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    write_pictures(root)
    return root


@cache
def ends(pictures: Path, method: str) -> dict[str, Tensor]:
    """Return the weights after two steps."""
    (method,) = check_methods([method])
    lams = {method: (10.0,)} if is_guided(method) else {}
    (run,) = planned(pictures, (method,), lams, replace(HYPER, steps=2, warmup_epochs=0))
    model, _ = trained_model(run, accelerator=Accelerator(cpu=True), workers=0)
    return model.state_dict()


@pytest.mark.slow
@pytest.mark.parametrize(("one", "other"), PAIRS, ids="+".join)
def test_both_parts_of_a_pair_have_their_effect(pictures: Path, one: str, other: str) -> None:
    parts = OF_KIND[one], OF_KIND[other]
    both = ends(pictures, "+".join(parts))
    assert all(value.isfinite().all() for value in both.values())
    for part in parts:
        alone = ends(pictures, part)
        assert both.keys() == alone.keys()
        assert any(not torch.equal(both[name], alone[name]) for name in both), part
