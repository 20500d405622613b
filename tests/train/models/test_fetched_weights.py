"""Weights from an address: fetched once, whole, and checked."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from small_data import MODEL
from vitreg.errors import InputError
from vitreg.train.models.pretrained import fetch, open_weights
from vitreg.train.models.weights import file_hash


class Server(BaseHTTPRequestHandler):
    files: dict[str, bytes]
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        content = self.files.get(self.path.partition("?")[0])
        self.send_response(404 if content is None else 200)
        short = self.path.endswith("?short")
        self.send_header("Content-Length", str(len(content or b"") + short))
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *parts: object) -> None:
        pass


@pytest.fixture
def server(weights: Path) -> Iterator[SimpleNamespace]:
    content = weights.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    files = {
        "/a/checkpoint.safetensors": content,
        "/b/checkpoint.safetensors": b"another model's",
        f"/vit-{digest[:8]}.safetensors": content,
        "/vit-0123abcd.safetensors": content,
        "/vit-16.safetensors": content,
        "/vit-20230815.safetensors": content,
    }
    handler = type("Handler", (Server,), {"files": files, "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        thread = threading.Thread(target=served.serve_forever, args=(0.02,))
        thread.start()
        address = f"http://127.0.0.1:{served.server_port}"
        yield SimpleNamespace(address=address, asked=handler.asked, content=content, digest=digest)
        served.shutdown()
        thread.join()


def test_fetched_once_and_whole(server: SimpleNamespace, tmp_path: Path) -> None:
    url = f"{server.address}/a/checkpoint.safetensors"
    path = fetch(url, tmp_path / "cache")
    assert path.read_bytes() == server.content
    assert fetch(url, tmp_path / "cache") == path
    assert server.asked == ["/a/checkpoint.safetensors"]
    assert sorted((tmp_path / "cache").iterdir()) == [path, path.with_name(f"{path.name}.sha256")]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"is damaged .*delete it, and it is fetched again"):
        fetch(url, tmp_path / "cache")


def test_files_of_one_name_are_kept_apart(server: SimpleNamespace, tmp_path: Path) -> None:
    paths = [fetch(f"{server.address}/{place}/checkpoint.safetensors", tmp_path) for place in "ab"]
    assert paths[1].read_bytes() == b"another model's"
    assert paths[0].read_bytes() == server.content


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("vit-0123abcd.safetensors", "its sha256 does not begin with 0123abcd"),
        ("a/checkpoint.safetensors?short", r"(\d+) of \d+ bytes arrived"),
        ("nothing.pth", "404"),
        ("", "names no file"),
    ],
)
def test_what_does_not_arrive_whole_is_not_kept(
    server: SimpleNamespace, tmp_path: Path, place: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        fetch(f"{server.address}/{place}", tmp_path / "cache")
    assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").iterdir())


def test_sum_in_the_name_is_checked_and_a_number_is_none(server: SimpleNamespace, tmp_path: Path) -> None:
    for name in (f"vit-{server.digest[:8]}.safetensors", "vit-16.safetensors", "vit-20230815.safetensors"):
        assert fetch(f"{server.address}/{name}", tmp_path).read_bytes() == server.content


def test_server_that_cannot_be_reached(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing was kept; repeat the command, or fetch the file yourself"):
        fetch("http://127.0.0.1:9/weights.pth", tmp_path)
    assert not list(tmp_path.iterdir())


def test_address_is_a_file_like_any_other(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def urlopen(request: object, timeout: float) -> object:
        content = io.BytesIO(weights.read_bytes())
        return nullcontext(SimpleNamespace(url=place, headers={}, read=content.read))

    monkeypatch.setattr("vitreg.train.basics.download.urlopen", urlopen)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    place = "https://weights.example/ibot/checkpoint_teacher.safetensors"
    _, fingerprint = open_weights(place, MODEL)
    assert fingerprint == file_hash(weights)
    place = "http://elsewhere.example/other.safetensors"
    with pytest.raises(InputError, match="it leads to http://elsewhere"):
        open_weights("https://weights.example/other.safetensors", MODEL)


@pytest.mark.parametrize("url", ["http://weights.example/a.pth", "ftp://weights.example/a.pth"])
def test_only_encrypted_addresses(url: str) -> None:
    with pytest.raises(InputError, match="only fetched from https"):
        open_weights(url, MODEL)
