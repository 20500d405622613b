"""Files that are whole or not there, and locks that end with their process."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from vitreg.errors import InputError
from vitreg.files import lock, whole_file, write_atomically


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "table.md"
    write_atomically(path, "λ")
    assert path.read_text(encoding="utf-8") == "λ"
    with whole_file(path) as file:
        file.write(b"new")
        assert path.read_text(encoding="utf-8") == "λ"
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["table.md"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_what_fails_on_the_way_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "table.md"
    write_atomically(path, "old")

    def interrupted() -> None:
        with whole_file(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["table.md"]


def test_a_full_disk_is_told_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomically(tmp_path / "model", b"weights")
    assert caught.value.filename == str(tmp_path / "model")
    assert names(tmp_path) == []


def test_a_lock_is_held_once_and_given_back(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with lock(folder, wait=True) as is_held:
        assert is_held
        with lock(folder, wait=False) as is_held_again:
            assert not is_held_again
    with lock(folder, wait=False) as is_held:
        assert is_held


def test_a_lock_is_given_back_where_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mine"), lock(tmp_path, wait=True):
        raise ValueError("mine")
    with lock(tmp_path, wait=False) as is_held:
        assert is_held


def test_a_link_in_place_of_a_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "lock").symlink_to(tmp_path / "precious")
    with (
        pytest.raises(InputError, match="remove it, or give another folder"),
        lock(tmp_path / "out", wait=True),
    ):
        pass
    assert (tmp_path / "precious").read_text() == "kept"


def test_who_waits_gets_the_lock_next(tmp_path: Path) -> None:
    order: list[str] = []

    def wait() -> None:
        with lock(tmp_path, wait=True) as is_held:
            order.append(f"second {is_held}")

    thread = threading.Thread(target=wait)
    with lock(tmp_path, wait=True):
        thread.start()
        time.sleep(0.1)
        order.append("first")
    thread.join(30)
    assert order == ["first", "second True"]


HOLDER = """
import sys, time
from pathlib import Path
from vitreg.files import lock
with lock(Path(sys.argv[1]), wait=True):
    print("held", flush=True)
    time.sleep(600)
"""


def test_the_system_lets_go_when_a_process_is_killed(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    with lock(tmp_path, wait=False) as is_held:
        assert not is_held
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with lock(tmp_path, wait=False) as is_held:
        assert is_held


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_worker_does_not_keep_the_lock(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    with lock(tmp_path, wait=True):
        worker = context.Process(target=time.sleep, args=(600,))
        worker.start()
        # The worker holds nothing, and has not let go for its parent either.
        with lock(tmp_path, wait=False) as is_held:
            assert not is_held
    try:
        with lock(tmp_path, wait=False) as is_held:
            assert is_held
    finally:
        worker.kill()
        worker.join()


def test_a_forked_worker_does_not_outlive_its_parent_with_the_lock(tmp_path: Path) -> None:
    # The child prints: by then it has returned from fork, and with that run the lock's after-fork hook.
    program = HOLDER.replace("    print", "    if not os.fork(): print").replace("sys,", "os, sys,")
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"held\n"
        with lock(tmp_path, wait=False) as is_held:
            assert not is_held
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        with lock(tmp_path, wait=False) as is_held:
            assert is_held
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()
