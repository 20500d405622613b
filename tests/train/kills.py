"""Kills, full disks and torn files: python kills.py FOLDER KILLS fails if anything is lost.

A warm parent, which has run `vitreg finetune` once undisturbed, forks a child in its own session, which runs
it with checkpoints every 0.01 s. The parent kills the group at a random moment and starts it again until it
is done. Then every file of the result is compared, byte by byte, with the undisturbed one's.
"""

from __future__ import annotations

import functools
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from timm.models import VisionTransformer, register_model

from small_data import SIZE, write_picture
from vitreg.cli import main
from vitreg.train import finetuning
from vitreg.train.runs.workplace import Workplace

MOST = 60_000_000
"""Bytes that a child may write into one file, where its disk is not full."""


@register_model
def vit_of_kills(**options: object) -> VisionTransformer:
    """Return a ViT of two blocks, smaller than any of timm's."""
    known = ("img_size", "num_classes", "drop_path_rate")
    own: Any = {name: options[name] for name in known if name in options}
    return VisionTransformer(patch_size=16, embed_dim=32, depth=2, num_heads=2, **own)


def prepare(root: Path) -> list[str]:
    """Write pictures and weights, and return the command without its `--out`."""
    for label, name in enumerate(("auk", "booby")):
        for number in range(8):
            write_picture(root / "data" / name / f"{number}.png", seed=100 * label + number)
    torch.manual_seed(0)
    model = timm.create_model("vit_of_kills", num_classes=0, img_size=SIZE)
    save_file(model.state_dict(), root / "w.safetensors")
    often: Callable[..., object] = functools.partial(Workplace, checkpoint_seconds=0.01)
    finetuning.Workplace = often  # type: ignore[assignment]
    given = ["finetune", str(root / "data"), "--weights", str(root / "w.safetensors"), "--size", str(SIZE)]
    given += ["--model", "vit_of_kills", "--steps", "12", "--batch-size", "4", "--device", "cpu"]
    return [*given, "--views", "2", "--method", "GTA"]


def files_of(out: Path) -> dict[str, bytes]:
    """Return every file of a result, reports without their times and how often they were taken up."""
    found = {}
    for path in sorted(out.rglob("*")):
        if not path.is_file() or path.name in ("lock", "DONE"):  # DONE has the sum of a report with its times
            continue
        if path.name.startswith("."):  # what a kill left of a file being written, which nobody reads
            continue
        content = path.read_bytes()
        if path.name == "report.json":
            report = json.loads(content)
            report.pop("seconds"), report.pop("continued", None)
            content = json.dumps(report).encode()
        if path.name == "report.html":  # its commands name the folder
            content = content.replace(out.name.encode(), b"OUT")
        found[path.relative_to(out).as_posix()] = content
    return found


def start(argv: list[str], log: Path, *, most_bytes: int = MOST) -> int:
    """Fork a child in its own session that runs the command, and return its number."""
    child = os.fork()
    if child:
        return child
    os.setsid()
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, MOST))
    told = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(told, 1), os.dup2(told, 2)
    code = 99
    try:
        code = main(argv)
    finally:
        sys.stdout.flush()
        os._exit(code)


def wait(child: int, seconds: float | None) -> int | None:
    """Return a child's exit code, or None if it was killed after `seconds`."""
    end = time.monotonic() + seconds if seconds is not None else None
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if end is not None and time.monotonic() > end:
            os.killpg(child, signal.SIGKILL) if os.getpgid(child) == child else os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.005)


def torn(content: bytes) -> dict[str, bytes]:
    """Return a file's content cut, emptied and zeroed, and with a flipped bit."""
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :] if content else b"\0"
    return {"cut": content[:middle], "empty": b"", "zeroed": bytes(len(content)), "flipped": flipped}


def one_of_each_kind(out: Path) -> list[Path]:
    """Return the stored files, of the runs on folds only those of one."""
    files = [path for path in sorted(out.rglob("*")) if path.is_file() and path.name != "lock"]
    return [path for path in files if not re.search("fold1|probe_fold", path.parent.name)]


def run_all(root: Path, num_kills: int) -> Counter[str]:
    """Kill, fill and tear, and return how often each; raises `AssertionError` where something is lost."""
    chance, did = random.Random(0), Counter[str]()
    given, log = prepare(root), root / "log"

    def start_on(out: Path, **options: Any) -> int:
        return start([*given, "--out", str(out)], options.pop("log", log), **options)

    # Whatever is imported late, the children have from here on.
    assert main([*given, "--out", str(root / "warm")]) == 0
    began = time.monotonic()
    assert wait(start_on(root / "whole"), None) == 0, log.read_text()
    seconds, whole = time.monotonic() - began, files_of(root / "whole")
    assert files_of(root / "warm") == whole

    while did["killed"] < num_kills:
        out = root / f"killed{did['results after kills']}"
        most = 0.3 * seconds  # and more each time: it comes to its end, however slow the machine has become
        while (code := wait(start_on(out), chance.uniform(0.02, most))) is None:
            did["killed"] += 1
            most *= 1.05
            for checkpoint in out.glob("*/checkpoint.pt"):
                did["killed beside a checkpoint"] += 1
                if chance.random() < 0.3:
                    checkpoint.write_bytes(chance.choice([*torn(checkpoint.read_bytes()).values()]))
                    did["torn checkpoints"] += 1
            did["continued"] += "continued from step" in log.read_text(errors="replace")
        assert code == 0, log.read_text()
        assert files_of(out) == whole, f"after kills {out} is another"
        did["results after kills"] += 1

    for most in (100, 1000, 5_000, 50_000, 100_000):
        out = root / f"full{most}"
        # What is printed is no file of this size, too.
        code = wait(start_on(out, log=Path(os.devnull), most_bytes=most), None)
        assert code in (0, 2), f"exit code {code} after a disk of {most} bytes"
        did[f"disk full, exit code {code}"] += 1
        assert wait(start_on(out), None) == 0, log.read_text()
        assert files_of(out) == whole, f"after a disk of {most} bytes {out} is another"

    out = root / "whole"
    for path in one_of_each_kind(out):
        content = path.read_bytes()
        for kind, changed in sorted(torn(content).items()):
            path.write_bytes(changed)
            if "readings" in path.parts:  # which only a training reads
                for run in out.glob("*/DONE"):
                    shutil.rmtree(run.parent)
            code = wait(start_on(out), None)
            said = log.read_text()
            assert code in (0, 2), f"exit code {code} after {path} {kind}: {said}"
            if code == 2:
                assert "Traceback" not in said
                assert path.name in said or path.parent.name in said, said
                did["torn and refused"] += 1
                path.write_bytes(content)
                assert wait(start_on(out), None) == 0, log.read_text()
            elif path.suffix == ".safetensors" and path.read_bytes() == changed:
                # A model that is not delivered is not read; whoever reads it looks, as the refusals show.
                did["torn and not read"] += 1
                path.write_bytes(content)
            else:
                did["torn and made again"] += 1
            assert files_of(out) == whole, f"{path} {kind}"
    return did


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(run_all(Path(sys.argv[1]), int(sys.argv[2]))))
