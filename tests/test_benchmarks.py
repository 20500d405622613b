import argparse
import inspect
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import loop
import overhead
import penalties
import problems
import scaling
import vitreg
from benchmark_setting import options, setting
from report import write_json
from training import NUM_CLASSES, Setting
from variants import VARIANTS, costs

SMALL = ["--model", "test_vit", "--size", "32", "--rounds", "2", "--warmup", "1"]

RIVALS = {
    "GTA, unfused attention": "GTA",
    "block-output guide, feature getter": "block-output guide",
    "L2-SP, loop over parameters": "L2-SP",
    "BSS, torch.svd": "BSS",
    "transformers, output_attentions": "transformers, attention guide",
}
ON_CLIP = ["L2-SP, loop over parameters", "BSS, torch.svd"]


def penalty_and_gradient(name: str, given: Setting) -> tuple[Tensor, list[Tensor]]:
    """Return a variant's weighted penalty and its gradient, after every parameter was moved alike."""
    variant = VARIANTS[name].make(given)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in variant.module.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    output = variant.module(given.images)
    assert variant.penalty is not None
    value = variant.penalty(output[1] if isinstance(output, tuple) else None, given.images)
    gradients = torch.autograd.grad(value, list(variant.module.parameters()), allow_unused=True)
    shapes = [p.shape for p in variant.module.parameters()]
    return value, [torch.zeros(s) if g is None else g for g, s in zip(gradients, shapes, strict=True)]


def test_every_rival_is_compared() -> None:
    others = {name for name in VARIANTS if name not in RIVALS}
    assert set(RIVALS.values()) <= others
    assert {name for name, e in VARIANTS.items() if "rivals" in e.make.__module__} - others == set(RIVALS)


@pytest.mark.parametrize(
    ("rival", "model"),
    [*((rival, "test_vit") for rival in RIVALS), *((rival, "clip:ViT-B-16") for rival in ON_CLIP)],
)
def test_a_rival_computes_what_vitreg_computes(rival: str, model: str) -> None:
    given = setting(model)
    theirs, their_gradients = penalty_and_gradient(rival, given)
    ours, our_gradients = penalty_and_gradient(RIVALS[rival], given)
    assert ours.item() > 0
    assert theirs.item() == pytest.approx(ours.item(), rel=1e-4)
    scale = max(g.abs().max().item() for g in our_gradients)
    for a, b in zip(their_gradients, our_gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * scale)


def test_a_rival_hands_over_the_models_own_logits() -> None:
    given = setting()
    for name in ("GTA, unfused attention", "block-output guide, feature getter", "BSS, torch.svd"):
        logits, _ = VARIANTS[name].make(given).module.eval()(given.images)
        torch.testing.assert_close(logits, given.source(given.images), rtol=1e-4, atol=1e-5)


def test_what_does_not_apply_is_left_out_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["plain", "GTA", "GTA, unfused attention", "transformers, output_attentions", "TransMix"]
    given = setting("clip:ViT-B-16", batch_size=3)
    rows, left_out = costs({name: VARIANTS[name] for name in names}, given, options(rounds=1, warmup=0))
    assert list(rows) == ["plain", "GTA"]
    assert list(left_out) == names[2:]
    said = capsys.readouterr().out
    assert "left out: GTA, unfused attention: written for timm's VisionTransformer" in said
    assert "left out: transformers, output_attentions: " in said
    assert "left out: TransMix: pictures are mixed in pairs, found a batch of 3" in said


def test_reading_alone_reads_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    given = setting()
    seen: list[object] = []
    trace = vitreg.trace

    def remembered(model: nn.Module, *names: str) -> object:
        seen.append(names)
        return trace(model, *names)

    monkeypatch.setattr(vitreg, "trace", remembered)
    variant = VARIANTS["reading alone"].make(given)
    assert seen == [("attn_logits",)]
    hooks = [m for m in variant.module.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert len(hooks) > 2
    assert variant.penalty is None


def test_transmix_labels_are_those_of_the_class() -> None:
    given = setting(size=64)
    model = given.model()
    mix = vitreg.TransMix(model, num_classes=NUM_CLASSES, mixup_alpha=0.0, smoothing=problems.SMOOTHING)
    seen: dict[str, Tensor] = {}
    attention = model.blocks[-1].attn
    attention.q_norm.register_forward_hook(lambda module, args, out: seen.update(query=out.detach()))
    attention.k_norm.register_forward_hook(lambda module, args, out: seen.update(key=out.detach()))
    images, _ = mix(given.images, given.labels)
    assert mix._mix is not None
    assert mix._mix.box is not None
    model(images)
    box = mix._mix.box
    expected = mix.labels()
    for written in (problems.transmix_labels, problems._full_attention_labels):
        got = written(seen["query"], seen["key"], given.labels, box, size=64)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


def finite(file: Path) -> dict[str, dict[str, object]]:
    """Return the rows of a written file, whose every figure is finite."""
    written = json.loads(file.read_text(encoding="utf-8"))
    assert {"command", "device", "threads", "versions", "date", "options"} <= set(written["setting"])
    assert {"torch", "timm", "python"} <= set(written["setting"]["versions"])
    for row in written["rows"].values():
        assert row["ratio"] > 0
        assert row["peak_ratio"] > 0
        assert all(math.isfinite(v) for v in row.values() if not isinstance(v, str))
    return written["rows"]


@pytest.mark.slow
def test_overhead(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "overhead.json"
    assert overhead.main([*SMALL, "--batch-size", "2", "--json", str(file)]) == 0
    rows = finite(file)
    assert list(rows) == list(VARIANTS)
    assert rows["plain"]["ratio"] == rows["plain"]["peak_ratio"] == 1
    printed = capsys.readouterr().out
    assert "left out" not in printed
    assert all(name in printed for name in VARIANTS)


def test_overhead_under_autocast(tmp_path: Path) -> None:
    file = tmp_path / "overhead.json"
    chosen = ["--variants", "GTA", "BSS, torch.svd", "GTA, unfused attention"]
    assert overhead.main([*SMALL, "--batch-size", "2", "--amp", *chosen, "--json", str(file)]) == 0
    assert len(finite(file)) == 4


@pytest.mark.slow
def test_what_runs_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    compile_with = torch.compile

    def quickly(module: nn.Module, **given: object) -> object:
        compiled.append(module)
        assert given["backend"] == "aot_eager"
        return compile_with(module, **given)

    quickly.__signature__ = inspect.signature(compile_with)
    monkeypatch.setattr(torch, "compile", quickly)
    names = ["plain", "reading alone", "GTA", "GTA, unfused attention", "block-output guide, feature getter"]
    entries = {name: VARIANTS[name] for name in names}
    rows, _ = costs(entries, setting(compile="aot_eager", depth=1), options(rounds=1, warmup=1))
    assert list(rows) == names
    assert len(compiled) == len(names) + 2  # the two rivals compile their source too


PENALTIES = [
    *("--batch-size", "2", "--blocks", "2", "--heads", "2", "--grid", "4"),
    *("--features", "24", "12", "--model", "test_vit", "--size", "32"),
    *("--rounds", "2", "--warmup", "1"),
]


def test_penalties(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "penalties.json"
    assert penalties.main([*PENALTIES, "--json", str(file)]) == 0
    rows = finite(file)
    assert list(rows) == [f"{p}: {k}" for p in problems.PROBLEMS for k in penalties.KINDS]
    assert all(row["gradient_norm"] > 0 for row in rows.values())
    assert f"{rows['BSS: vitreg']['value']:.8g}" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["vitreg", "reference"])
@pytest.mark.parametrize("change", ["value", "gradient", "nan"])
def test_another_value_is_an_error(
    kind: str,
    change: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make = problems.PROBLEMS["BSS"]

    def changed(given: argparse.Namespace) -> problems.Problem:
        problem = make(given)
        written: Callable[[], Tensor] = getattr(problem, kind)
        by = {
            "value": lambda value: value + 0.01 * value.detach(),
            "gradient": lambda value: value.detach() + 1.01 * (value - value.detach()),
            "nan": lambda value: value.detach() + math.nan * (value - value.detach()),
        }[change]
        return problem._replace(**{kind: lambda: by(written())})

    monkeypatch.setitem(problems.PROBLEMS, "BSS", changed)
    file = tmp_path / "penalties.json"
    assert penalties.main([*PENALTIES, "--penalties", "BSS", "--json", str(file)]) == 1
    assert f"BSS: expected {kind} within 0.001 of the literal writing" in capsys.readouterr().err
    assert not file.exists()


@pytest.mark.slow
def test_scaling(tmp_path: Path) -> None:
    file = tmp_path / "scaling.json"
    points = ["--batch-sizes", "1", "3", "--sizes", "32", "64", "--depths", "1"]
    assert scaling.main([*SMALL, "--batch-size", "2", *points, "--json", str(file)]) == 0
    rows = finite(file)
    compared = ("plain", *scaling.COMPARED)
    expected = [
        f"{point}: {name}"
        for point in ("batch size 1", "batch size 3", "5 tokens", "17 tokens", "1 blocks")
        for name in compared
    ]
    counted = [f"penalties: {name}" for name in ("plain", *(f"{n} attached" for n in (1, 2, 3, 4)))]
    assert list(rows) == expected + counted
    assert rows["5 tokens: GTA"]["baseline"] == "5 tokens: plain"


@pytest.mark.parametrize("views", ["0", "2"])
def test_loop(tmp_path: Path, views: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "loop.json"
    assert loop.main([*SMALL, "--batch-size", "4", "--views", views, "--json", str(path)]) == 0
    rows = json.loads(path.read_text())["rows"]
    assert list(rows) == [loop.BARE, loop.LOOP, loop.PICTURES, loop.NORMALISE]
    assert all(row["pictures_per_second"] == pytest.approx(4 / row["seconds"]) for row in rows.values())
    assert "of the bare step's" in capsys.readouterr().out


def test_the_loop_is_the_recipes_own(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    monkeypatch.setattr(
        loop, "train", lambda *args, on_step, **options: [on_step() or steps.append(1) for _ in range(4)]
    )
    assert loop.main([*SMALL, "--batch-size", "4"]) == 0
    assert len(steps) == 3 * 4


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    write_json(file, {}, {"plain": {"ratio": 1.0}})
    with pytest.raises(ValueError, match="JSON"):
        write_json(file, {}, {"plain": {"ratio": math.nan}})
    assert json.loads(file.read_text())["rows"] == {"plain": {"ratio": 1.0}}
    assert [f.name for f in tmp_path.iterdir()] == ["rows.json"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--model", "no_such_model"], "expected a model of timm"),
        (["--model", "clip:no-such-model"], "expected a model of open_clip"),
        (["--rounds", "0"], "expected a whole number of at least 1, found '0'"),
        (["--device", "meta"], "expected cpu or cuda, found 'meta'"),
        (["--device", "abacus"], "expected cpu or cuda, found 'abacus'"),
        (["--json", "no_such_folder/a.json"], "expected a file in a folder that exists"),
        (["--variants", "magic"], "invalid choice: 'magic'"),
    ],
)
def test_what_cannot_be_used_is_refused(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        overhead.main(argv)
    assert message in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_missing_gpu_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        overhead.main(["--device", "cuda"])
    assert "expected a device that torch finds, found 'cuda'; use cpu" in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("script", [overhead, penalties])
def test_on_a_gpu(script: object, tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    small = SMALL if script is overhead else PENALTIES
    assert script.main([*small, "--batch-size", "2", "--device", "cuda", "--json", str(file)]) == 0
    assert finite(file)
