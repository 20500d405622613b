"""The rows around the linear probe: the probe alone, LP-FT, WiSE-FT; layer-wise rates and LoRA."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn

import vitreg
from small_data import MODEL, SIZE
from small_runs import HYPER, count_steps, create, planned, quiet, write_pictures
from vitreg.errors import InputError
from vitreg.train.runs import run as run_module
from vitreg.train.runs.plan import Run
from vitreg.train.runs.run import checkpoints_of, complete, trained_model, training_indices
from vitreg.train.runs.workplace import Workplace
from vitreg.train.training.adapters import Adapters
from vitreg.train.training.guided_model import Applied
from vitreg.train.training.loop import _optimizer
from vitreg.train.training.methods import METHODS, check_methods, guide_of

Weights = dict[str, Tensor]

ROWS = (
    "fine-tune",
    "linear-probe",
    "LP-FT",
    "LP-FT+GTA",
    "LP-FT+TransMix",
    "WiSE-FT",
    "layer-decay",
    "LoRA",
    "LoRA+GTA",
    "GTA+FTP",
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    root = tmp_path_factory.mktemp("pictures")
    write_pictures(root)
    lams = {method: (10.0,) for method in ROWS if METHODS[method].grid}
    return {run.configuration.method: run for run in planned(root, ROWS, lams)}


def started(run: Run) -> nn.Module:
    """Return the model as the run creates it, with the same random head."""
    set_seed(run.configuration.seed)
    return run.start.create(len(run.task.classes), HYPER.drop_path)


def state(model: nn.Module) -> Weights:
    return {name: value.clone() for name, value in model.state_dict().items()}


def trained(run: Run, **options: Any) -> tuple[Weights, list[dict[str, float]]]:
    model, log = trained_model(run, accelerator=Accelerator(cpu=True), workers=0, **options)
    assert all(p.requires_grad for p in model.parameters())
    assert not any(hasattr(module, "enable_adapters") for module in model.modules())
    return state(model), log


def literal_probe(run: Run) -> vitreg.LinearProbe:
    """Return the probe of the features of the run's training pictures, one picture after the other."""
    model = started(run).eval()
    indices = training_indices(run)
    with torch.no_grad():
        rows = [
            model.forward_head(
                model.forward_features(run.task.normalise(run.task.train.plain(i)[None])), pre_logits=True
            )
            for i in indices
        ]
    labels = torch.tensor([run.task.train_labels[i] for i in indices])
    return vitreg.fit_probe(torch.cat(rows), labels, num_classes=len(run.task.classes))


def test_the_probe_is_fitted_on_the_run_s_pictures_alone(runs: dict[str, Run]) -> None:
    run = runs["linear-probe"]
    assert run.configuration.hyper is None
    assert run.configuration.measure_every == 0
    held_out = replace(run, configuration=replace(run.configuration, hold_out=0.25))
    for one in (run, held_out):
        probes: list[vitreg.LinearProbe] = []
        weights, log = trained(one, on_probe=probes.append)
        assert log == []
        expected = literal_probe(one)
        assert len(expected.labels) == (6 if one is held_out else 8)
        assert torch.equal(probes[0].labels, expected.labels)
        assert probes[0].weight_decay == expected.weight_decay
        torch.testing.assert_close(weights["head.weight"].double(), expected.weight, rtol=1e-3, atol=1e-5)
        body = state(started(one))
        assert all(torch.equal(weights[n], body[n]) for n in body if not n.startswith("head."))


def test_the_probe_s_run_does_not_depend_on_how_others_train(runs: dict[str, Run], tmp_path: Path) -> None:
    write_pictures(tmp_path)
    other = planned(tmp_path, ("linear-probe",), {}, replace(HYPER, lr=3.0, steps=2))[0]
    assert other.configuration.folder == runs["linear-probe"].configuration.folder


@pytest.mark.parametrize("method", ["LP-FT", "LP-FT+GTA", "LP-FT+TransMix", "WiSE-FT"])
def test_training_begins_at_the_probe_s_head(
    runs: dict[str, Run], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Weights] = []
    random: list[Tensor] = []
    train = run_module.train

    def watched(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        seen.append(state(model))
        random.append(torch.get_rng_state())
        return train(model, *args, **kwargs)

    monkeypatch.setattr(run_module, "train", watched)
    probe, _ = trained(runs["linear-probe"])
    weights, log = trained(runs[method])
    trained(runs["fine-tune"])
    assert all(torch.equal(seen[0][name], probe[name]) for name in probe)
    assert torch.equal(random[0], random[1]), "the probe takes no random number from the training"
    assert not torch.equal(seen[1]["head.weight"], probe["head.weight"])
    assert not torch.equal(weights["head.weight"], probe["head.weight"])
    assert log[-1]["step"] == HYPER.steps - 1
    if method == "LP-FT+GTA":
        assert all(entry["gta"] > 0 for entry in log), "stochastic depth tells them apart from the start"


def test_wise_ft_is_half_way_between_the_probe_and_lp_ft(runs: dict[str, Run]) -> None:
    start, _ = trained(runs["linear-probe"])
    end, log = trained(runs["LP-FT"])
    weights, same_log = trained(runs["WiSE-FT"])
    assert log == same_log
    for name, value in weights.items():
        expected = 0.5 * start[name].double() + 0.5 * end[name].double()
        torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-7)


def test_a_report_says_what_the_probe_was(runs: dict[str, Run], tmp_path: Path) -> None:
    accelerator = Accelerator(cpu=True)
    expected = literal_probe(runs["LP-FT"])
    assert expected.fold_accuracy is not None
    found = {}
    for method in ("linear-probe", "LP-FT", "fine-tune"):
        out = tmp_path / method
        (out / runs[method].configuration.folder).mkdir(parents=True)
        report = complete(runs[method], Workplace(out, accelerator, 0, quiet()))
        assert 0 <= report.metrics["top1"] <= 100
        found[method] = run_module.load_report(out, runs[method].configuration).metrics.get("probe")
    assert found["fine-tune"] is None
    assert (
        found["linear-probe"]
        == found["LP-FT"]
        == {
            "held_out_top1": 100 * expected.fold_accuracy,
            "train_top1": 100 * expected.train_accuracy,
            "weight_decay": expected.weight_decay,
        }
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", ["LP-FT", "LoRA+GTA", "WiSE-FT", "GTA+FTP"])
def test_a_run_that_is_stopped_ends_as_one_that_was_not(
    runs: dict[str, Run], method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, said = runs[method], list[str]()
    expected, expected_log = trained(run)
    count_steps(monkeypatch)
    (tmp_path / run.configuration.folder).mkdir()
    steps = itertools.count(1)

    def stop() -> None:
        if next(steps) == 5:
            raise KeyboardInterrupt

    for on_step in (stop, lambda: None):
        checkpoints = checkpoints_of(
            run, Workplace(tmp_path, Accelerator(cpu=True), 0, quiet(), checkpoint_seconds=2)
        )
        checkpoints.say = said.append
        if on_step is stop:
            with pytest.raises(KeyboardInterrupt):
                trained(run, checkpoints=checkpoints, on_step=on_step)
        else:
            weights, log = trained(run, checkpoints=checkpoints, on_step=on_step)
    assert said == ["continued from step 4"]
    assert log == expected_log
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_lora_changes_the_blocks_and_the_head_alone(runs: dict[str, Run]) -> None:
    before = state(started(runs["LoRA"]))
    for method in ("LoRA", "LoRA+GTA"):
        assert runs[method].configuration.hyper.lr == pytest.approx(10 * HYPER.lr)
        weights, log = trained(runs[method])
        changed = {name for name in before if not torch.equal(weights[name], before[name])}
        matrices = {name for name in before if name.startswith("blocks.") and before[name].dim() == 2}
        assert changed == matrices | {"head.weight", "head.bias"}
        if method == "LoRA+GTA":
            assert all(entry["gta"] > 0 for entry in log)
        difference = weights["blocks.0.mlp.fc1.weight"] - before["blocks.0.mlp.fc1.weight"]
        assert int((torch.linalg.svdvals(difference) > 1e-5).sum()) <= 8


def test_lora_begins_as_the_model_was_and_is_undone() -> None:
    torch.manual_seed(0)
    model = timm.create_model(MODEL, num_classes=3, img_size=SIZE).eval()
    before, images = state(model), torch.randn(2, 3, SIZE, SIZE)
    logits = model(images)
    with Applied(model, "LoRA+GTA", 1.0, HYPER, num_classes=3) as applied:
        assert torch.equal(model(images), logits)
        trained_now = {name for name, p in model.named_parameters() if p.requires_grad}
        assert all("lora_" in name or name.startswith("head.") for name in trained_now)
        assert applied.attachment is not None
        model.train()(images).sum().backward()
        applied.adapters.check_gradients()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_lora_where_the_weight_is_taken_past_the_layer() -> None:
    beit = timm.create_model(
        "beit_base_patch16_224", num_classes=3, img_size=32, depth=1, embed_dim=24, num_heads=2
    )
    adapters = Adapters(beit.train())
    beit(torch.randn(2, 3, 32, 32)).sum().backward()
    with pytest.raises(
        InputError, match=r"LoRA would train nothing at blocks\.0\.attn\.qkv: the model takes"
    ):
        adapters.check_gradients()
    adapters.merge()
    adapters.merge()


def test_layer_decay_gives_each_layer_its_rate(runs: dict[str, Run]) -> None:
    model = started(runs["layer-decay"])
    optimizer = _optimizer(model, "layer-decay", HYPER)
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    depth = len(model.blocks)
    assert rate[id(model.patch_embed.proj.weight)] == pytest.approx(HYPER.lr * 0.75 ** (depth + 1))
    assert rate[id(model.blocks[0].mlp.fc1.weight)] == pytest.approx(HYPER.lr * 0.75**depth)
    assert rate[id(model.head.weight)] == HYPER.lr
    assert {id(p) for p in model.parameters()} == rate.keys()
    plain = _optimizer(model, "fine-tune", HYPER)
    assert {group["lr"] for group in plain.param_groups} == {HYPER.lr}
    _, log = trained(runs["layer-decay"])
    assert max(entry["lr"] for entry in log) <= HYPER.lr
    _, plain_log = trained(runs["fine-tune"])
    assert log[0]["lr"] == plain_log[0]["lr"]


def test_names() -> None:
    assert check_methods(["lp-ft", "LP-FT+gta+TransMix", "Linear-Probe", "wise-ft", "LP-FT+LoRA+GTA"]) == (
        "LP-FT", "LP-FT+GTA+TransMix", "linear-probe", "WiSE-FT", "LP-FT+LoRA+GTA",
    )  # fmt: skip
    with pytest.raises(InputError, match="did you mean LP-FT"):
        check_methods(["LPFT"])
    probed = {name for name, method in METHODS.items() if method.head == "probe"}
    assert {"LP-FT" + f"+{name}".removeprefix("+fine-tune") for name in METHODS.keys() - probed} <= probed
    for name in METHODS.keys() - probed:
        with_probe = METHODS["LP-FT" + f"+{name}".removeprefix("+fine-tune")]
        assert with_probe == replace(METHODS[name], head="probe")
    for name in ("GTA", "GTA+TransMix", "LP-FT+GTA", "LP-FT+GTA+TransMix", "LoRA+GTA", "WiSE-FT+GTA"):
        assert guide_of(name) == "GTA"
    assert [guide_of(name) for name in ("LP-FT", "fine-tune+TransMix")] == ["LP-FT", "fine-tune"]


def test_a_model_whose_head_is_not_linear_is_refused_before_training(tmp_path: Path) -> None:
    from vitreg.train.models.start import Start
    from vitreg.train.runs.plan import _check_method
    from vitreg.train.training.hyperparameters import Hyperparameters

    model, start = create(3, 0.0), Start("tiny", "w", create)
    hyper = Hyperparameters(steps=1, batch_size=2, lr=1e-3, weight_decay=0.0)
    model.head = nn.Sequential(nn.Flatten(), nn.Conv1d(1, 1, 1))
    with pytest.raises(InputError, match="LP-FT cannot be used with tiny: Expected a linear head"):
        _check_method(model, "LP-FT", None, start, hyper)
    _check_method(model, "fine-tune", None, start, hyper)
