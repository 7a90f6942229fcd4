"""GGUF files of the hub: a repository and a quantisation are one file, or a line says why not."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from huggingface_hub import constants, snapshot_download
from safetensors import safe_open

from engine import hub as engine_hub
from engine.errors import ModelLoadError
from engine.hub import chosen, find_in_hub
from engine.loading import load_model
from tests import gguf_files
from tests.checkpoints import make_network, save_checkpoint

FILES = (
    "README.md",
    "model-Q4_K_M.gguf",
    "model-Q4_K_S.gguf",
    "model-IQ4_XS.gguf",
    "model.Q8_0.gguf",
    "mmproj-model-Q8_0.gguf",
    "BF16/model-BF16-00001-of-00002.gguf",
    "BF16/model-BF16-00002-of-00002.gguf",
    "model-UD-Q2_K.gguf",
    "model-Q2_K.gguf",
)


@pytest.mark.parametrize(
    ("quantisation", "file"),
    [
        ("Q4_K_M", "model-Q4_K_M.gguf"),
        ("q4_k_m", "model-Q4_K_M.gguf"),
        ("Q8_0", "model.Q8_0.gguf"),
        ("IQ4_XS", "model-IQ4_XS.gguf"),
        ("UD-Q2_K", "model-UD-Q2_K.gguf"),
    ],
)
def test_the_one_file_that_says_a_quantisation_is_chosen(quantisation: str, file: str) -> None:
    """Red when a longer name is taken for a shorter one, or a projector for a model."""
    assert chosen("a/b", FILES, quantisation) == file


@pytest.mark.parametrize(
    ("quantisation", "told"),
    [
        ("Q4_K", "no file of this quantisation (BF16/model-BF16-00001-of-00002.gguf, "),
        ("4_XS", "no file of this quantisation"),
        ("Q2_K", "several files of this quantisation (model-Q2_K.gguf, model-UD-Q2_K.gguf)"),
        ("BF16", "is of several parts in the hub"),
    ],
)
def test_a_quantisation_that_is_not_one_file_is_told(quantisation: str, told: str) -> None:
    """Red when one is guessed, or a part of a model is loaded as the whole."""
    with pytest.raises(ModelLoadError) as caught:
        chosen(f"a/b:{quantisation}", FILES, quantisation)
    assert told in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(ModelLoadError, match="no GGUF files at all"):
        chosen("a/b:Q4_0", ["model.safetensors"], "Q4_0")


def test_other_names_are_not_the_hubs() -> None:
    """Red when a path with a colon is looked for in the net."""
    for name in ("user/repo", "model.gguf", "./a:b", "C:/models/a:b", "repo:Q4_0"):
        assert find_in_hub(name) is None


@contextmanager
def hub(repo: str, files: dict[str, bytes]) -> Iterator[str]:
    """The address of a hub with one repository, as far as its API is asked for files."""
    commit = "0123456789abcdef0123456789abcdef01234567"

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            name = path.removeprefix(f"/{repo}/resolve/").partition("/")[2]
            if path in (f"/api/models/{repo}", f"/api/models/{repo}/revision/main"):
                self._answer(json.dumps({"id": repo, "sha": commit}).encode(), "application/json")
            elif path.startswith(f"/api/models/{repo}/tree/"):
                listed = [
                    {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
                    for name, content in files.items()
                ]
                self._answer(json.dumps(listed).encode(), "application/json")
            elif path.startswith(f"/{repo}/resolve/") and name in files:
                self._answer(files[name], "application/octet-stream")
            else:
                self.send_error(404)

        def _answer(self, content: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", commit)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *given: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def ask(monkeypatch: pytest.MonkeyPatch, address: str, folder: Path) -> None:
    """Ask this hub from now on, of which nothing is known, and keep here what it has."""
    monkeypatch.setattr(constants, "ENDPOINT", address)
    whole = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", whole)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(engine_hub, "_known", {})
    engine_hub._download.cache_clear()


def test_a_file_is_downloaded_once_and_found_without_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when a repository's file is not found as its API lists it, or is asked for every time."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shape = {"vocab_size": len(gguf_files.tokens()), "hidden_size": 64, "intermediate_size": 96}
    file = gguf_files.write(tmp_path / "model.gguf", make_network(**shape), "Q4_0")
    given = {"dtype": "auto", "device": "cpu", "max_model_len": 64, "chunk": 16}
    with hub("user/repo", {"README.md": b"-", "model-Q4_0.gguf": file.read_bytes()}) as address:
        ask(monkeypatch, address, tmp_path / "hf")
        assert load_model("user/repo:Q4_0", **given).precision.name == "int4"
        with pytest.raises(ModelLoadError, match=r"of this quantisation \(model-Q4_0.gguf\)"):
            load_model("user/repo:Q8_0", **given)
        with pytest.raises(ModelLoadError, match="cannot be had from the hub"):
            load_model("user/other:Q8_0", **given)
    ask(monkeypatch, address, tmp_path / "hf")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load_model("user/repo:Q4_0", **given).precision.name == "int4"


def test_a_file_that_is_here_is_found_when_the_hub_cannot_be_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when only who says that there is no network may serve what was downloaded before."""
    files = {"README.md": b"-", "model-Q4_0.gguf": b"one", "model-Q8_0.gguf": b"other"}
    with hub("user/repo", files) as address:
        ask(monkeypatch, address, tmp_path)
        found = find_in_hub("user/repo:Q4_0")
        # Which keeps a list of all that there is, of which not everything is here.
        snapshot_download("user/repo", allow_patterns=["README.md"])
    ask(monkeypatch, address, tmp_path)
    assert found is not None and find_in_hub("user/repo:Q4_0") == found
    assert found.read_bytes() == b"one" and not constants.HF_HUB_OFFLINE
    with pytest.raises(ModelLoadError, match=r"no file of this quantisation \(model-Q4_0.gguf\)"):
        find_in_hub("user/repo:Q8_0")


def test_weights_are_downloaded_by_the_names_that_their_index_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when shards of other names are not found, or half of a model passes for the whole."""
    folder = save_checkpoint(tmp_path / "model")
    shard = folder / "model.safetensors-00001-of-00001.safetensors"
    (folder / "model.safetensors").rename(shard)
    with safe_open(shard, "pt") as opened:
        index = {"metadata": {}, "weight_map": dict.fromkeys(opened.keys(), shard.name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    given = {"dtype": "int8", "device": "cpu", "max_model_len": 64, "chunk": 16}
    with hub("user/repo", files) as address:
        ask(monkeypatch, address, tmp_path / "cache")
        assert load_model("user/repo", **given).precision.name == "int8"
    ask(monkeypatch, address, tmp_path / "cache")
    assert load_model("user/repo", **given).precision.name == "int8"
    (kept,) = (tmp_path / "cache").rglob(shard.name)
    for told in ("damaged or cut short", "cannot load 'user/repo'"):
        kept.unlink()
        if "damaged" in told:
            kept.write_bytes(b"nothing")
        with pytest.raises(ModelLoadError, match=told):
            load_model("user/repo", **given)
