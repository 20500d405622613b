"""Stored runs: one folder each, named by its configuration, complete when it holds `DONE`.

`DONE` holds the checksums of what it vouches for; one of an earlier version is empty and vouches for nothing.

A finished run is never run again. One that was killed has no `DONE` and goes on from its last checkpoint, or
starts afresh with the same seed, so a table that was interrupted ends with the figures of one that was not.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vitreg.errors import InputError
from vitreg.files import check_sums, summed_files, write_atomically, write_sums
from vitreg.train.data.subset import Share
from vitreg.train.training.hyperparameters import Hyperparameters

ENGINE = 2
"""Raised whenever a change of the engine changes figures: runs of another engine are other runs."""


DONE, REPORT = "DONE", "report.json"


Cell = tuple[str, str, Share, str]
"""The cell of a table: fingerprint of the weights, data set, share, method."""


@dataclass(frozen=True)
class Configuration:
    """Everything that decides a run's figures, apart from the machine and the versions of the libraries.

    Attributes:
        hold_out: the share of each class's training pictures that the run is measured on instead of the test
            pictures, without having been trained on; 0 for the test pictures.
        fused_attention: whether timm's fused functions compute the attention.
        measure_every: steps between two measurements in the course of the training; 0 for none, "log" for
            after 1, 2, 4, 8 steps and so on.
        formula: what tells the method's formula from earlier ones, see `vitreg.train.training.formulas`.
    """

    data: str
    data_fingerprint: str
    model: str
    weights: str
    size: int
    augment: str
    method: str
    lam: float | None
    share: Share | None
    seed: int
    hyper: Hyperparameters | None
    precision: str = "no"
    fused_attention: bool = True
    hold_out: float = 0.0
    measure_every: int | str = 0
    engine: int = ENGINE
    formula: str = ""

    @property
    def identity(self) -> dict[str, Any]:
        """What makes it this run and no other, as JSON has it."""
        return _identity(json.loads(json.dumps(asdict(self))))

    @property
    def cell(self) -> Cell | None:
        """The cell of a table that its run belongs to, whatever its λ and seed; None for that of a source."""
        return None if self.share is None else (self.weights, self.data, self.share, self.method)

    @property
    def folder(self) -> str:
        """The name of the run's folder: readable, and different for each configuration."""
        digest = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:10]
        lam = "" if self.lam is None else f"lam{self.lam:g}"
        share = "" if self.share is None else self.share.slug
        held_out = "validation" if self.hold_out else ""
        parts = [self.data, self.method, lam, share, f"seed{self.seed}", held_out, digest]
        return "_".join(re.sub(r"[^A-Za-z0-9.+-]+", "-", part) for part in parts if part)


def _identity(values: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration in the form in which runs are told apart, whenever it was written."""
    # While pictures could be augmented on the device, too, a run said where its own were.
    hyper = values["hyper"] and {"augment_on": "cpu", **values["hyper"]}
    if hyper:  # these came later
        usual: dict[str, float] = {"layer_decay": 1, "fraction": 1, "balance": 0}
        hyper = {name: value for name, value in hyper.items() if (name, value) not in usual.items()}
    # How a batch is computed changes nothing but the rounding, and what is drawn in each part: by LoRA's
    # dropout, and for a fraction.
    if hyper:
        rounds = {"compile", "grad_checkpointing", "fsdp"}
        draws = "fraction" in hyper or "LoRA" in values["method"].split("+")
        if hyper.get("micro_batch") is None or not draws:
            rounds |= {"micro_batch"}
        hyper = {name: value for name, value in hyper.items() if name not in rounds}
    # Before formulas were looked at, a run said nothing of them; attention was always what timm takes.
    later = (("formula", ""), ("fused_attention", True))
    return {name: value for name, value in values.items() if (name, value) not in later} | {"hyper": hyper}


@dataclass(frozen=True)
class Report:
    """What a finished run left behind.

    `seconds` leaves out what an interruption cost; `continued` says how many times the training was taken up
    from a checkpoint.
    """

    configuration: Configuration
    metrics: dict[str, Any]
    log: list[dict[str, float]]
    seconds: float
    machine: dict[str, Any]
    continued: int = 0


def load_report(out: Path, configuration: Configuration) -> Report | None:
    """Return the report of a run in `out`, or None if it is not finished.

    Raises:
        InputError: The run says it is done, but its report cannot be read or is that of another
            configuration.
    """
    folder = out / configuration.folder
    if not (folder / DONE).is_file():
        return None
    try:
        if not (folder / DONE).stat().st_size and (folder / "predictions.csv").is_file():
            raise ValueError(f"{DONE} is empty, as only that of a run without predictions.csv may be")
        # A model may be large: whoever loads it looks. What its owner has deleted is not missed.
        beside = [name for name in summed_files(folder / DONE) if not name.endswith(".safetensors")]
        check_sums(folder / DONE, [REPORT, *(name for name in beside if (folder / name).is_file())])
        stored = json.loads((folder / REPORT).read_text())
        if _identity(stored["configuration"]) != configuration.identity:
            raise ValueError("it is of another configuration")
        measured = (stored["metrics"], stored["log"], stored["seconds"], stored["machine"])
        return Report(configuration, *measured, continued=stored.get("continued", 0))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder / REPORT} is broken ({error}); delete the folder to run it again"
        ) from error


def store_report(out: Path, report: Report, *, beside: Sequence[str] = ()) -> None:
    """Write a run's report, then its `DONE`: a kill at any moment leaves a whole run or an unfinished one.

    `DONE` holds the checksums of the report and of the files `beside` it, which are there already.
    """
    folder = out / report.configuration.folder
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / REPORT, json.dumps(asdict(report), indent=1) + "\n")
    write_sums(folder / DONE, [folder / name for name in (REPORT, *beside)])
