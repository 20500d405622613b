"""Other people's training loops, each against the same steps written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

import vitreg
from small_models import make_vit
from vitreg.integrations import lightning, transformers

TARGETS = {"gta": vitreg.GTA(lam=10.0), "bss": vitreg.BSS(lam=0.1)}


def lam(step: int) -> float:
    return 1.0 + step


class Pictures(Dataset[dict[str, Tensor]]):
    """Ten random pictures: batches of two make five, which are not divisible by an accumulation of two."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.images = torch.randn(10, 3, 32, 32, generator=generator)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"images": self.images[index], "labels": torch.tensor(index % 5)}


class Classifier(nn.Module):
    """A timm model as Trainer expects one: keywords in, a dictionary out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.vit = make_vit()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"logits": self.vit(images)}


def moved(model: nn.Module) -> nn.Module:
    """Return the model a little away from where it was, so that no penalty is zero."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


def by_hand(steps: list[list[slice]], **scale: float) -> tuple[nn.Module, list[dict[str, float]]]:
    """Return the model after the given optimiser steps, each of several batches of equal weight."""
    model, data, terms = Classifier(), Pictures(), []
    reg = vitreg.attach(model, model, TARGETS, lam=lam)
    optimizer = torch.optim.SGD(moved(model).parameters(), lr=0.1)
    for step, parts in enumerate(steps):
        optimizer.zero_grad()
        for part in parts:
            loss = F.cross_entropy(model(data.images[part])["logits"], torch.arange(10)[part] % 5)
            ((loss + reg.penalty(step)) / scale.get("batches", len(parts))).backward()
            terms.append({f"penalty/{n}": v.item() for n, v in reg.terms.items()})
        optimizer.step()
    return model, terms


def assert_same(model: nn.Module, expected: nn.Module) -> None:
    for (name, ours), theirs in zip(model.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


PLAIN = [[slice(i, i + 2)] for i in range(0, 10, 2)]
ACCUMULATED = [[slice(0, 2), slice(2, 4)], [slice(4, 6), slice(6, 8)], [slice(8, 10)]]


class Reporter(TrainerCallback):
    """What a callback behind the guide is told."""

    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.seen.append(dict(logs))


def items_loss(
    outputs: dict[str, Tensor], labels: Tensor, num_items_in_batch: Tensor | None = None
) -> Tensor:
    """Return a compute_loss_func of the user's, scaled for gradient accumulation as the Trainer asks for."""
    if num_items_in_batch is None:
        return F.cross_entropy(outputs["logits"], labels)
    return F.cross_entropy(outputs["logits"], labels, reduction="sum") / num_items_in_batch


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("added", [False, True])
def test_trainer(accumulate: int, added: bool, tmp_path: Path) -> None:
    expected, terms = by_hand(ACCUMULATED if accumulate == 2 else PLAIN)
    model, data = Classifier(), Pictures()
    guide = transformers.Guide(vitreg.attach(model, model, TARGETS, lam=lam))
    moved(model)
    arguments = TrainingArguments(
        tmp_path,
        optim="sgd",
        learning_rate=0.1,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        num_train_epochs=1,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=accumulate,
        eval_strategy="steps",
        eval_steps=1,
        logging_steps=1,
        train_sampling_strategy="sequential",
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        use_cpu=True,
    )
    reporter = Reporter()
    trainer = Trainer(
        model,
        arguments,
        train_dataset=data,
        eval_dataset=data,
        compute_loss_func=items_loss if added else guide.loss,
        callbacks=[reporter] if added else [guide, reporter],
    )
    if added:
        guide.add_to(trainer)
    trainer.train()
    assert_same(model, expected)
    logged = [line for line in trainer.state.log_history if "loss" in line]
    lines = terms if accumulate == 1 else [terms[1], terms[3], terms[4]]
    assert len(logged) == len(lines)
    for line, wanted in zip(logged, lines, strict=True):
        assert {n: line[n] for n in wanted} == pytest.approx(wanted, rel=1e-3)
    evaluated = [line for line in reporter.seen if "eval_loss" in line]
    assert len(evaluated) == len(lines)
    assert not any("penalty/gta" in line for line in evaluated)
    assert sum("penalty/gta" in line for line in reporter.seen) == len(lines)
    with torch.no_grad():
        plain = F.cross_entropy(model(data.images)["logits"], torch.arange(10) % 5)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(plain.item(), rel=1e-4)
    with pytest.raises(vitreg.StateError, match="was removed"):
        guide.attachment.penalty()


@pytest.mark.parametrize("guide", [transformers.Guide, lightning.Guide])
def test_a_source_that_remembers_is_refused(guide: type) -> None:
    model = nn.Sequential(make_vit())
    with (
        vitreg.attach(model, vitreg.CachedSource(model, 4)) as attachment,
        pytest.raises(vitreg.ArgumentError, match="views"),
    ):
        guide(attachment)


def test_trainer_without_countable_labels() -> None:
    model = Classifier()
    guide = transformers.Guide(
        vitreg.attach(model, target="bss"), lambda outputs, _: outputs["logits"].mean()
    )
    images = Pictures().images[:4]
    state = type("State", (), {"global_step": 0})
    arguments = type("Arguments", (), {"gradient_accumulation_steps": 1})
    guide.on_step_begin(arguments, state, None)
    outputs = model(images)
    assert guide.loss(outputs, None) > outputs["logits"].mean()
    arguments.gradient_accumulation_steps = 2
    guide.on_step_begin(arguments, state, None)
    with pytest.raises(vitreg.StateError, match="labels that the Trainer can count"):
        guide.loss(model(images), None)


class Module(pl.LightningModule):
    def __init__(self, *, automatic: bool = True) -> None:
        super().__init__()
        self.classifier = Classifier()
        self.automatic_optimization = automatic

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        loss = F.cross_entropy(self.classifier(batch["images"])["logits"], batch["labels"])
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: dict[str, Tensor], index: int) -> None:
        self.classifier(batch["images"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Log(pl.Callback):
    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        seen = trainer.callback_metrics
        self.seen.append({n: v.item() for n, v in seen.items() if n.startswith("penalty/")})


def fit(module: Module, guide: pl.Callback, folder: Path, **options: Any) -> list[dict[str, float]]:
    log = Log()
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        val_check_interval=2,
        callbacks=[guide, log],
        **options,
    )
    loader = DataLoader(Pictures(), batch_size=2)
    trainer.fit(module, loader, loader)
    return log.seen


# Float16's rounding aside, a scaled loss has the same gradients; on a CPU the scaler is what is tested.
class Scaled(MixedPrecision):
    def __init__(self) -> None:
        super().__init__("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=64.0))

    def forward_context(self) -> Any:
        return torch.autocast("cpu", enabled=False)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("scaled", [False, True])
def test_lightning(accumulate: int, scaled: bool, tmp_path: Path) -> None:
    # Lightning divides the last, incomplete accumulation by the full number of batches, too.
    expected, terms = by_hand(ACCUMULATED, batches=2) if accumulate == 2 else by_hand(PLAIN)
    module = Module()
    guide = lightning.Guide(vitreg.attach(module, module, TARGETS, lam=lam))
    moved(module)
    seen = fit(
        module, guide, tmp_path, accumulate_grad_batches=accumulate, plugins=[Scaled()] if scaled else None
    )
    assert_same(module.classifier, expected)
    assert len(seen) == len(terms)
    for line, wanted in zip(seen, terms, strict=True):
        assert line == pytest.approx(wanted, rel=1e-3)
    with pytest.raises(vitreg.StateError, match="was removed"):
        guide.attachment.penalty()


class Root(Module):
    """A loss whose gradient needs its own value, in a dictionary."""

    def training_step(self, batch: dict[str, Tensor], index: int) -> Any:
        return {"loss": super().training_step(batch, index).sqrt()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_lightning_adds_to_any_loss(accumulate: int, tmp_path: Path) -> None:
    plain, guided = Root(), Root()
    fit(plain, pl.Callback(), tmp_path, accumulate_grad_batches=accumulate)
    guide = lightning.Guide(vitreg.attach(guided, target=TARGETS, lam=0))
    fit(guided, guide, tmp_path, accumulate_grad_batches=accumulate)
    for ours, theirs in zip(guided.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)


class OwnBackward(Precision):
    def backward(self, tensor: Tensor, *_: Any, **__: Any) -> None:
        (tensor / 2).backward()


@pytest.mark.filterwarnings("ignore")
def test_lightning_refuses_a_loss_of_unknown_scale(tmp_path: Path) -> None:
    module = Module()
    guide = lightning.Guide(vitreg.attach(module, target="bss"))
    with pytest.raises(vitreg.ArgumentError, match="backward pass, found that of OwnBackward"):
        fit(module, guide, tmp_path, plugins=[OwnBackward()])
    module.automatic_optimization = False
    with pytest.raises(vitreg.ArgumentError, match="manual optimisation"):
        fit(module, guide, tmp_path)
