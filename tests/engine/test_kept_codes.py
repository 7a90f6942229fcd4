"""Rounded weights are kept for the next start, and are no others then."""

import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM

from engine.code_cache import cache_root
from engine.loading import Checkpoint, kept_codes
from engine.model import Model
from engine.weights import IntegerEmbedding, IntegerLinear
from tests import adapters
from tests.checkpoints import make_network, save_checkpoint

SHAPE = {"hidden_size": 64, "intermediate_size": 128}
KEPT = "as asked for: codes of an earlier load kept"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(kept_codes, "LEAST", 0)
    monkeypatch.setattr(kept_codes, "_MOST_BYTES", 20_000)


def loaded(folder: Path, dtype: str = "int8", lora: str | None = None) -> Model:
    given = {"dtype": dtype, "device": "cpu", "max_model_len": 64, "chunk": 16}
    return Checkpoint.read(str(folder)).load(**given, lora=lora)


def parts(model: Model) -> dict[str, torch.Tensor]:
    """All that a model has, by its names."""
    return dict(model.network.named_buffers()) | model.network.state_dict()


@pytest.mark.parametrize("is_tied", [False, True])
@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_what_is_read_again_is_what_was_rounded(dtype: str, is_tied: bool, tmp_path: Path) -> None:
    """Red when codes change on their way, are rounded every time, or a tied one is kept twice."""
    shape = {**SHAPE, "tie_word_embeddings": is_tied, "attention_bias": True}
    folder = save_checkpoint(tmp_path / "model", **shape)
    first, second = loaded(folder, dtype), loaded(folder, dtype)
    assert first.precision.reason == "as asked for" and second.precision.reason == KEPT
    ours, before = parts(second), parts(first)
    assert ours.keys() == before.keys()
    assert all(torch.equal(ours[key], weight) for key, weight in before.items())
    assert first.fingerprint == second.fingerprint
    assert first.num_parameters == second.num_parameters
    kinds = {type(each) for each in second.network.modules()}
    assert {IntegerLinear, IntegerEmbedding} <= kinds
    (kept,) = (cache_root() / "weights").iterdir()
    files = sorted(kept.glob("*.safetensors"))
    keys = [key for file in files for key in load_file(file)]
    assert len(files) > 2 and len(keys) == len({*keys})
    assert sum("embed_tokens" in key or "lm_head" in key for key in keys) == (2 if is_tied else 4)


def test_others_are_kept_beside(tmp_path: Path) -> None:
    """Red when a precision, an adapter or a newer file is served what was rounded of another."""
    folder = save_checkpoint(tmp_path / "model", **SHAPE)
    adapters.save(tmp_path / "lora", make_network(**SHAPE))
    lora = str(tmp_path / "lora")
    loads = [("int8", None), ("int4", None), ("int8", lora)]
    assert all(loaded(folder, *each).precision.reason == "as asked for" for each in loads)
    assert all(loaded(folder, *each).precision.reason == KEPT for each in loads)
    weights = load_file(folder / "model.safetensors")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    os.utime(folder / "model.safetensors", ns=(1, 1))
    before = {*(cache_root() / "weights").iterdir()}
    assert loaded(folder).precision.reason == "as asked for"
    # What was rounded of the older file goes, and no more.
    after = {*(cache_root() / "weights").iterdir()}
    assert len(before - after) == len(after - before) == 1
    assert {each.name.split("-")[1] for each in before - after} == {"int8"}


def test_what_is_not_whole_is_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Red when half a file is served, or a flipped bit."""
    folder = save_checkpoint(tmp_path / "model", **SHAPE)
    expected = parts(loaded(folder))
    file = sorted((cache_root() / "weights").rglob("*.safetensors"))[1]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    again = loaded(folder)
    assert again.precision.reason == "as asked for" and "not whole" in caplog.text
    assert all(torch.equal(parts(again)[key], weight) for key, weight in expected.items())
    assert loaded(folder).precision.reason == KEPT


def test_a_folder_that_cannot_be_written_is_told_and_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Red when a full disk, or another's folder, keeps a model from being served."""
    folder = save_checkpoint(tmp_path / "model", **SHAPE)
    (tmp_path / "cache").write_text("no folder")
    assert loaded(folder).precision.reason == "as asked for"
    assert "are not kept for the next time" in caplog.text


@pytest.mark.parametrize("error", [SafetensorError("I/O error: no space left"), OSError("none")])
def test_a_disk_that_is_full_is_told_and_no_more(
    error: Exception,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Red when a model that has been loaded is refused, since its codes cannot be written."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(kept_codes, "save_file", fail)
    assert loaded(save_checkpoint(tmp_path / "model", **SHAPE)).precision.reason == "as asked for"
    assert f"are not kept for the next time: {error}" in caplog.text
    assert not any((cache_root() / "weights").rglob("*.safetensors"))


def test_codes_that_are_no_model_are_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Red when what an earlier load has kept keeps a model from being served for good."""
    folder = save_checkpoint(tmp_path / "model", **SHAPE)
    weights = kept_codes._weights
    with monkeypatch.context() as patch:
        patch.setattr(kept_codes, "_weights", lambda network: islice(weights(network), 3, None))
        loaded(folder)
    assert loaded(folder).precision.reason == "as asked for"
    assert "is to be made anew" in caplog.text and "missing: " in caplog.text
    assert loaded(folder).precision.reason == KEPT


def test_what_another_transformers_has_read_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when names of weights, or what they mean, are those of a version that is gone."""
    folder = save_checkpoint(tmp_path / "model", **SHAPE)
    loaded(folder)
    monkeypatch.setattr(kept_codes, "version", lambda package: f"another {package}")
    assert loaded(folder).precision.reason == "as asked for"
    assert loaded(folder).precision.reason == KEPT


@pytest.mark.parametrize("dtype", ["float32", "int4"])
def test_a_network_is_run_five_times_before_it_is_served(dtype: str, tmp_path: Path) -> None:
    """Red when what is known of it is found out again: each pass reads, and widens, all weights."""
    ran: list[type] = []
    hook = register_module_forward_pre_hook(lambda module, _: ran.append(type(module)))
    try:
        loaded(save_checkpoint(tmp_path / "model", **SHAPE), dtype)
    finally:
        hook.remove()
    assert ran.count(LlamaForCausalLM) == 5


def test_small_models_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when the cache fills with what takes no time."""
    monkeypatch.setattr(kept_codes, "LEAST", 10**6)
    loaded(save_checkpoint(tmp_path / "model", **SHAPE))
    assert not (cache_root() / "weights").exists()


PROGRAM = """
import sys
from engine.loading import load_model
given = {"device": "cpu", "max_model_len": 64, "chunk": 16}
model = load_model(sys.argv[1], dtype=sys.argv[2], **given)
print(model.precision.reason)
# Its own: what getrusage tells begins with what its parent had when it was started.
[most] = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(int(most.split()[1]) * 1024)
print(model.num_parameters)
"""
BITS_KEPT = {"int8": 8.5, "int4": 5}
BILLION = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
}


def save_billion(folder: Path) -> Path:
    """A random checkpoint of a billion weights in bfloat16, a file a layer; returns its folder."""
    config = AutoConfig.for_model("llama", **BILLION, dtype="bfloat16")
    config.save_pretrained(folder)
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config)
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for key, weight in network.named_parameters():
        layer = key.split(".")[2] if ".layers." in key else "0"
        numbers = torch.randn(weight.shape, dtype=torch.bfloat16).mul_(0.02)
        parts.setdefault(layer, {})[key] = numbers
    places = {key: f"model-{layer}.safetensors" for layer in parts for key in parts[layer]}
    for layer, part in parts.items():
        save_file(part, folder / f"model-{layer}.safetensors", {"format": "pt"})
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("dtype", BITS_KEPT)
def test_a_billion_weights_take_what_they_become_and_two_gigabytes(
    dtype: str, tmp_path: Path
) -> None:
    """Red when a checkpoint is whole in memory before, or while, it is rounded or read again."""
    folder = save_billion(tmp_path / "model")
    for reason in ("as asked for", KEPT):
        told = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(folder), dtype],
            env=os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.splitlines()
        *_, said, most, num_weights = told
        assert said == reason
        assert int(most) < int(num_weights) * BITS_KEPT[dtype] / 8 + 2e9
