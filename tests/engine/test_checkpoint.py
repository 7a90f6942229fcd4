"""What is wrong with a checkpoint is refused before a word is written, in a line that names it."""

import json
import os
import pickle
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, T5ForConditionalGeneration

from engine.api import Engine
from engine.checkpoint import abridged
from engine.config import EngineConfig
from engine.drafting import head_checkpoint
from engine.drafting.head_checkpoint import load_head, names_head
from engine.drafting.katz import KatzTable
from engine.errors import ConfigError, EngineError, ModelLoadError, first_line
from engine.loading import Checkpoint, load_model
from engine.loading import checkpoint as loading_checkpoint
from engine.tokenizer import load_tokenizer
from tests.checkpoints import (
    VOCAB_SIZE,
    make_head_weights,
    make_model,
    make_network,
    save_checkpoint,
    save_head_checkpoint,
)

Weights = dict[str, Tensor]
DOWN = "model.layers.3.mlp.down_proj.weight"
DRAFT_IDS = list(range(0, VOCAB_SIZE, 2))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("whole"), num_hidden_layers=4)


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A checkpoint of four layers, to be broken."""
    return Path(shutil.copytree(whole, tmp_path / "model"))


def load(folder: Path | str, dtype: str = "float32") -> None:
    load_model(str(folder), dtype=dtype, device="cpu", max_model_len=None, chunk=16)


def refusal(folder: Path | str, **keys: str) -> str:
    """The one line with which a checkpoint is refused."""
    with pytest.raises(EngineError) as caught:
        load(folder, **keys)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit(folder: Path, change: Callable[[Weights], Weights]) -> Path:
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})
    return folder


def configure(folder: Path, **keys: Any) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))
    return folder


def test_a_missing_weight_is_named(folder: Path) -> None:
    """Red when transformers' random numbers in its place are served."""
    edit(folder, lambda weights: {k: v for k, v in weights.items() if k != DOWN})
    assert f"missing: {DOWN}." in refusal(folder)


def test_weights_under_a_prefix_are_both_missing_and_left_over(folder: Path) -> None:
    """Red when names that no layer has are skipped; many of them are still one short line."""
    edit(folder, lambda weights: {f"foo.{key}": tensor for key, tensor in weights.items()})
    message = refusal(folder)
    assert "missing: lm_head.weight, model.embed_tokens.weight" in message
    assert "left over: foo.lm_head.weight" in message
    assert "foo.model.layers.{0,1,2,3}.input_layernorm.weight" in message
    assert "and 8 more" in message and len(message) < 1000


@pytest.mark.parametrize(
    ("num_layers", "fault"),
    [(3, "left over: model.layers.3."), (5, "missing: model.layers.4.")],
)
def test_a_configuration_of_more_or_fewer_layers_than_weights_is_refused(
    folder: Path, num_layers: int, fault: str
) -> None:
    """Red when what is left over is not looked at: the text would be that of half a model."""
    assert fault in refusal(configure(folder, num_hidden_layers=num_layers))


def test_a_shape_that_the_configuration_contradicts_is_refused(folder: Path) -> None:
    message = refusal(configure(folder, intermediate_size=40))
    assert "of another shape than config.json says: model.layers.{0,1,2,3}.mlp.down_proj" in message


def test_experts_that_are_missing_or_mis_shaped_are_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Red when a report of transformers' own has what our line lacks."""
    shape = {"num_local_experts": 2, "num_experts_per_tok": 1, "num_hidden_layers": 1}
    folder = save_checkpoint(tmp_path, "mixtral", **shape)
    expert = "model.layers.0.block_sparse_moe.experts.1.w1.weight"
    weights = load_file(folder / "model.safetensors")
    capfd.readouterr()
    changes: list[Callable[[Weights], Weights]] = [
        lambda weights: {k: v for k, v in weights.items() if k != expert},
        lambda weights: weights | {expert: torch.ones(5, 5)},
    ]
    for change in changes:
        save_file(change(dict(weights)), folder / "model.safetensors", {"format": "pt"})
        assert "model.layers.0.mlp.experts.gate_up_proj" in refusal(folder)
    assert capfd.readouterr().err == ""


def test_tied_weights_and_what_no_layer_reads_are_not_missed(folder: Path, tmp_path: Path) -> None:
    """Red when a tied output matrix counts as missing, or an old buffer or a guess-ahead layer as
    left over."""
    save_checkpoint(tmp_path / "tied", "gpt2")
    assert "lm_head.weight" not in load_file(tmp_path / "tied" / "model.safetensors")
    load(tmp_path / "tied")
    extra = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
        "mtp.layers.0.mlp.down_proj.weight": torch.ones(3),
        "model.layers.4.mlp.down_proj.weight": torch.ones(3),
    }
    edit(folder, lambda weights: weights | extra)
    load(configure(folder, num_nextn_predict_layers=1))
    assert "left over: model.layers.4" in refusal(configure(folder, num_nextn_predict_layers=0))


IDLE = [
    "model.layers.0.self_attn.rotary_emb.cos_cached",
    "model.layers.0.self_attn.rotary_emb.sin_cached",
    "model.layers.0.self_attn.k_scale",
    "model.layers.0.self_attn.v_proj.v_scale",
    "model.layers.0.self_attn.causal_mask",
    "transformer.h.0.attn.bias",
    "transformer.h.0.attn.masked_bias",
    "v_head.summary.weight",
]
HEAVY = [
    "model.layers.0.self_attn.q_norm.weight",
    "model.layers.0.self_attn.k_proj.bias",
    "model.layers.0.self_attn.sinks",
    "model.layers.0.mlp.up_proj.weight_scale",
    "transformer.h.0.attn.c_attn.bias",
    "layers.0.v_head.weight",
]


def test_what_is_beside_the_layers_may_be_left_over_and_nothing_of_them(folder: Path) -> None:
    """Red when the buffers of other releases refuse a sound checkpoint, or weights that no layer
    reads pass for such."""
    extra = {key: torch.ones(3) for key in IDLE}
    load(edit(folder, lambda weights: weights | extra))
    for key in HEAVY:
        edit(folder, lambda weights, key=key: weights | {key: torch.ones(3)})
        assert f"left over: {key}." in refusal(folder)
        edit(folder, lambda weights, key=key: {k: v for k, v in weights.items() if k != key})


def test_a_heads_copies_of_its_targets_parts_may_be_left_over(tmp_path: Path) -> None:
    """Red when a head of Speculators that keeps them is refused."""
    config, weights = head_of()
    copies = {"verifier_lm_head.weight": torch.ones(3), "verifier_norm.weight": torch.ones(3)}
    save_head_checkpoint(tmp_path, config, weights | copies)
    load_head(str(tmp_path), make_model(num_hidden_layers=3), 16)


def test_numbers_that_are_none_are_told_as_such(folder: Path) -> None:
    """Red when they are told as a broken tree mask, or not at all since no probe reads the row."""

    def spoil(weights: Weights) -> Weights:
        weights["model.embed_tokens.weight"][50] = torch.nan
        return weights

    assert "not finite numbers in float32: model.embed_tokens.weight" in refusal(
        edit(folder, spoil)
    )


def test_a_precision_too_narrow_for_the_weights_is_told(folder: Path) -> None:
    edit(folder, lambda weights: weights | {DOWN: weights[DOWN] + 1e5})
    load(folder)
    assert f"not finite numbers in float16: {DOWN}" in refusal(folder, dtype="float16")


@pytest.mark.parametrize("method", ["something", None])
def test_a_quantised_checkpoint_that_cannot_be_run_is_refused(
    folder: Path, method: str | None
) -> None:
    """Red when an unknown method is ignored, as transformers does."""
    configure(folder, quantization_config={"quant_method": method, "bits": 4})
    assert f"quantised ({method})" in refusal(folder)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "auto"])
def test_a_dequantised_checkpoint_is_of_one_precision(folder: Path, dtype: str) -> None:
    """Red when what was bfloat16 beside FP8 stays so beside what is float32."""
    edit(folder, in_fp8)
    quantisation = {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "weight_block_size": [16, 16],
    }
    configure(folder, quantization_config=quantisation, dtype="bfloat16")
    network = load_model(
        str(folder), dtype=dtype, device="cpu", max_model_len=None, chunk=16
    ).network
    expected = torch.float32 if dtype == "auto" else getattr(torch, dtype)
    assert {weight.dtype for weight in network.parameters()} == {expected}
    assert {buffer.dtype for buffer in network.buffers()} == {torch.float32}


def in_fp8(weights: Weights) -> Weights:
    """The projections of a checkpoint as DeepSeek publishes them, with one scale for 16 x 16."""
    stored = {}
    for key, weight in weights.items():
        if "_proj" not in key:
            stored[key] = weight.bfloat16()
            continue
        height, width = (size // 16 for size in weight.shape)
        scales = (
            weight.unflatten(1, (width, 16)).unflatten(0, (height, 16)).abs().amax((1, 3)) / 448
        )
        stored[f"{key}_scale_inv"] = scales
        spread = scales.repeat_interleave(16, 0).repeat_interleave(16, 1)
        stored[key] = (weight / spread).to(torch.float8_e4m3fn)
    return stored


def test_files_that_are_not_what_their_names_say_are_refused(folder: Path) -> None:
    """Red when any of them is an unexpected error, or downloaded weights are half of them."""
    file = folder / "model.safetensors"
    content = file.read_bytes()
    broken = {
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n": "git lfs pull",
        content[: len(content) // 2]: "cut short",
        content[:3]: "cut short",
        b"": "cut short",
    }
    for bytes_, remedy in broken.items():
        file.write_bytes(bytes_)
        assert remedy in refusal(folder)
    file.unlink()
    assert "holds no weights" in refusal(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "b.safetensors"}}')
    assert "b.safetensors' are missing" in refusal(folder)
    (folder / "model.safetensors.index.json").write_text("{")
    assert "index.json' cannot be read" in refusal(folder)


class Planted:
    """Runs a command where it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch planted",)


def test_pickled_weights_are_read_and_whatever_else_is_pickled_is_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    weights = load_file("model.safetensors")
    Path("model.safetensors").unlink()
    file = Path("pytorch_model.bin")
    torch.save(weights, file)
    load(folder)
    torch.save(Planted(), file)
    broken = [
        file.read_bytes(),
        pickle.dumps(Planted(), protocol=2),
        b"hello",
        b"version https://git-lfs.github.com/spec/v1\n",
    ]
    for content in broken:
        file.write_bytes(content)
        assert "pytorch_model.bin" in refusal(folder)
    assert not Path("planted").exists()


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("content", [b"{ not", b"[1]", b"\xff\xfe\x00"])
def test_an_unreadable_configuration_is_named(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    assert name in refusal(folder)


@pytest.mark.parametrize("dtype", ["float32", "auto"])
@pytest.mark.parametrize("kind", ["gptj", "gpt_neo", "falcon"])
def test_an_architecture_that_takes_no_attention_is_refused_in_any_precision(
    kind: str, dtype: str, tmp_path: Path
) -> None:
    """Red when the weights of bfloat16 are counted where nobody says what is wrong."""
    shape = {"gpt_neo": {"num_layers": 2, "attention_types": [[["global"], 2]]}}.get(kind, {})
    sizes = {"n_layer": 2, "num_hidden_layers": 2, "n_head": 4, "rotary_dim": 8, "n_embd": 32}
    heads = {"num_attention_heads": 4, "num_heads": 4, "hidden_size": 32, "vocab_size": 64}
    config = AutoConfig.for_model(kind, **heads, **(shape or sizes))
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(tmp_path)
    assert "takes no attention function or cache from outside" in refusal(tmp_path, dtype=dtype)


@pytest.mark.parametrize("dtype", ["float32", "auto"])
def test_what_is_no_language_model_is_refused_in_any_precision(dtype: str, tmp_path: Path) -> None:
    """Red when it is an error of its own, with the names of two hundred others."""
    save_encoder_decoder(tmp_path)
    message = refusal(tmp_path, dtype=dtype)
    assert message.startswith(f"cannot load {str(tmp_path)!r}: Unrecognized configuration class")
    assert len(message) < 400


def save_encoder_decoder(folder: Path) -> Path:
    config = AutoConfig.for_model(
        "t5", vocab_size=64, d_model=32, d_ff=48, num_layers=1, num_heads=4, d_kv=8
    )
    T5ForConditionalGeneration(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("has_config", [True, False])
def test_a_checkpoints_own_code_is_neither_run_nor_asked_for(
    has_config: bool, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when a server asks on its terminal, and a "y" runs what was downloaded."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    monkeypatch.chdir(tmp_path)
    if has_config:
        configure(folder, model_type="weird", auto_map={"AutoConfig": "weird.Weird"})
    else:
        folder = save_encoder_decoder(tmp_path / "t5")
        configure(folder, auto_map={"AutoModelForCausalLM": "weird.Weird"})
    (folder / "weird.py").write_text("open('planted', 'w')\nclass Weird: pass\n")
    for dtype in ("float32", "auto"):
        assert "needs code of its own, which is not run here" in refusal(folder, dtype=dtype)
    configure(folder, vocab_size=8192)  # or it would be refused for that
    stages = [{"kind": "model", "model": str(folder)}]
    with pytest.raises(ModelLoadError, match="needs code of its own"):
        Engine.load(EngineConfig.from_mapping({"model": "embedded/target", "stages": stages}))
    assert not Path("planted").exists()


def test_an_adapter_beside_a_model_is_refused(folder: Path) -> None:
    """Red when the base model is served as if it were the tuned one."""
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8}')
    assert "holds an adapter" in refusal(folder) and "(--lora)" in refusal(folder)


def test_weights_are_looked_at_once_before_they_are_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when an engine reads a pickle of many gigabytes once more to know how long a text is."""
    seen: list[Path] = []
    monkeypatch.setattr("engine.checkpoint.files.check_weights", seen.append)
    Engine.load(EngineConfig.from_mapping({"model": str(folder)}))
    assert seen == [folder / "model.safetensors"]


def test_a_configuration_is_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when an engine asks the hub for it anew for each thing that it wants to know."""
    seen: list[str] = []
    read = loading_checkpoint._read_config
    monkeypatch.setattr(
        loading_checkpoint, "_read_config", lambda name: seen.append(name) or read(name)
    )
    Engine.load(EngineConfig.from_mapping({"model": str(folder)}))
    assert seen == [str(folder)]


def test_a_folder_that_is_not_there_is_told_as_such(folder: Path) -> None:
    """Red when it is taken for the id of a repository."""
    for name in ("./nothing", "/no/such/folder", "embedded/nothing", "a/b/c", "no/", "no such"):
        assert f"there is no folder '{name}'" in refusal(name)
    assert "is a file" in refusal(folder / "config.json")
    (folder / "config.json").unlink()
    assert "holds no config.json" in refusal(folder)
    (folder / "adapter_config.json").write_text("{}")
    assert "adapter without its base model" in refusal(folder)


def test_a_model_without_a_vocabulary_is_no_language_model(tmp_path: Path) -> None:
    AutoConfig.for_model("vit").save_pretrained(tmp_path)
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    assert "no vocabulary" in refusal(tmp_path)


def test_a_window_or_weights_beyond_memory_are_refused_before_they_are_allocated(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when the machine is asked first; a window beyond the model's is not even loaded for."""
    config = {"model": str(folder), "dtype": "float32", "max_model_len": 500_000_000}
    with pytest.raises(ConfigError, match="knows 512 positions"):
        Engine.load(EngineConfig.from_mapping(config))
    configure(folder, max_position_embeddings=2**40)
    with pytest.raises(ConfigError, match="choose a lower max_model_len"):
        Engine.load(EngineConfig.from_mapping(config | {"max_model_len": 2**40}))
    monkeypatch.setattr("engine.memory.free_bytes", lambda device: 1000)
    assert "choose a smaller model" in refusal(folder)


def save_tokenizer(folder: Path, words: list[str]) -> None:
    vocabulary = {word: token_id for token_id, word in enumerate(words)}
    Tokenizer(WordLevel(vocabulary, unk_token="0")).save(str(folder / "tokenizer.json"))


def test_a_draft_of_another_tokenizer_is_refused_however_many_tokens_it_has(
    folder: Path, tmp_path: Path
) -> None:
    """Red when sizes alone are compared: a draft whose ids mean something else is never right."""
    draft = save_checkpoint(tmp_path / "draft", seed=1)
    stages = [{"kind": "model", "model": str(draft)}]
    mapping = {"model": str(folder), "stages": stages, "dtype": "float32"}
    words = [str(number) for number in range(VOCAB_SIZE)]
    save_tokenizer(folder, words)
    Engine.load(EngineConfig.from_mapping(mapping))
    save_tokenizer(draft, [*words, "<think>"])
    Engine.load(EngineConfig.from_mapping(mapping))
    save_tokenizer(draft, words[::-1])
    with pytest.raises(ModelLoadError, match="of 64 token ids 64 mean something else"):
        Engine.load(EngineConfig.from_mapping(mapping))


def head_refusal(folder: Path, config: dict[str, Any], weights: dict[str, Any]) -> str:
    save_head_checkpoint(folder, config, weights)
    with pytest.raises(ModelLoadError) as caught:
        load_head(str(folder), make_model(num_hidden_layers=3), 16)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def head_of(draft_ids: list[int] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    return make_head_weights(make_network(num_hidden_layers=3), draft_ids)


def test_a_heads_missing_left_over_and_mis_shaped_parts_are_named(tmp_path: Path) -> None:
    config, weights = head_of()
    del weights["norm.weight"]
    weights["midlayer.self_attn.q_norm.weight"] = torch.ones(8)
    weights["midlayer.mlp.down_proj.weight"] = torch.ones(32, 41)
    message = head_refusal(tmp_path, config, weights)
    assert "missing: norm.weight" in message
    assert "left over: midlayer.self_attn.q_norm.weight" in message
    assert "than config.json says: midlayer.mlp.down_proj.weight" in message


def test_a_head_of_a_reduced_vocabulary_needs_its_table_of_ids(tmp_path: Path) -> None:
    """Red when the first ids stand in for it: nothing that the head claims would be accepted."""
    config, weights = head_of(DRAFT_IDS)
    del weights["d2t"]
    assert "missing: d2t" in head_refusal(tmp_path, config, weights)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda table: table + VOCAB_SIZE, "token ids from 64 to 126"),
        (lambda table: table - 1, "token ids from -1 to 61"),
        (lambda table: -torch.arange(len(table)), "32 entries for 1 token ids"),
        (lambda table: table[:-1], "31 entries for 31 token ids"),
    ],
)
def test_a_table_of_ids_out_of_range_is_told_as_such(
    tmp_path: Path, change: Callable[[Tensor], Tensor], fault: str
) -> None:
    """Red when it is an IndexError, or ids count from the end."""
    config, weights = head_of(DRAFT_IDS)
    weights["d2t"] = change(weights["d2t"])
    assert fault in head_refusal(tmp_path, config, weights)


def test_a_heads_broken_files_and_numbers_are_refused(tmp_path: Path) -> None:
    config, weights = head_of()
    weights["fc.weight"][0, 0] = torch.inf
    assert "not finite numbers" in head_refusal(tmp_path, config, weights)
    (tmp_path / "pytorch_model.bin").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    target = make_model(num_hidden_layers=3)
    with pytest.raises(ModelLoadError, match="git lfs pull"):
        load_head(str(tmp_path), target, 16)
    (tmp_path / "pytorch_model.bin").write_bytes(b"nothing")
    with pytest.raises(ModelLoadError, match="nothing was run"):
        load_head(str(tmp_path), target, 16)
    config["hidden_size"] = "wide"
    with pytest.raises(ModelLoadError, match="is not that of an EAGLE-3 head"):
        save_head_checkpoint(tmp_path, config, weights | {"fc.weight": torch.ones(32, 96)})
        load_head(str(tmp_path), target, 16)


def test_a_head_of_an_unknown_name_is_no_draft_model(folder: Path, tmp_path: Path) -> None:
    """Red when the weights that it has not are made up, and it drafts at random."""
    config, weights = head_of()
    config["architectures"] = ["LlamaForCausalLMMedusa"]
    head = save_head_checkpoint(tmp_path / "head", config, weights)
    stages = [{"kind": "model", "model": str(head)}]
    mapping = {"model": str(folder), "stages": stages, "dtype": "float32"}
    with pytest.raises(ModelLoadError, match=r"LlamaForCausalLMMedusa.*missing: .*left over: fc"):
        Engine.load(EngineConfig.from_mapping(mapping))


def table_of(folder: Path) -> Path:
    KatzTable.build([[1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 4] * 5], VOCAB_SIZE).save(folder)
    return folder / "katz.safetensors"


def test_a_table_that_is_damaged_is_refused_however_it_is(tmp_path: Path) -> None:
    """Red when a byte more or less is an unexpected error, at the start or in a request."""
    file = table_of(tmp_path)
    content = file.read_bytes()
    header = int.from_bytes(content[:8], "little")
    broken = [
        b"",
        b"version https://git-lfs.github.com/spec/v1\n",
        content[:-40],
        content[: header // 2],
        (2).to_bytes(8, "little") + b"[]",
        (64).to_bytes(8, "little")
        + b'{"__metadata__": {"format": "stagetree-katz-1"}, "a": [1, 2]}   ',
        content[: 8 + header] + b"\xff" * (len(content) - 8 - header),
    ]
    for bytes_ in broken:
        file.write_bytes(bytes_)
        with pytest.raises(ModelLoadError, match=r"katz\.safetensors"):
            KatzTable.load(tmp_path)


def test_a_draft_that_is_refused_is_named(folder: Path, tmp_path: Path) -> None:
    """Red when a limit of its configuration is told, and not of whose: there are several models."""
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    draft = configure(save_checkpoint(tmp_path / "draft"), rope_parameters=rope)
    stages = [{"kind": "model", "model": str(draft)}]
    mapping = {"model": str(folder), "stages": stages, "dtype": "float32"}
    with pytest.raises(ModelLoadError, match=r"draft': dynamic rotary scaling"):
        Engine.load(EngineConfig.from_mapping(mapping))


def test_names_are_abridged_by_layer() -> None:
    keys = [f"layers.{layer}.mlp.experts.{expert}.w" for layer in range(9) for expert in range(3)]
    assert abridged(keys) == "layers.{0..8}.mlp.experts.0.w, layers.{0..8}.mlp.experts.1.w, " + (
        "layers.{0..8}.mlp.experts.2.w"
    )
    assert abridged(["b", "a", "c.1.d"]) == "a, b, c.1.d"
    assert len(abridged(["x" * 10_000])) < 200


def test_an_error_is_one_line_that_says_something() -> None:
    assert first_line(ValueError("for a field:\n  it is bad.\n more")) == "for a field: it is bad"
    assert first_line(KeyError(101)) == "KeyError 101"
    assert first_line(AssertionError()) == "AssertionError"


@pytest.fixture
def broken_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A hub that hangs up on whoever asks; a mark for each time."""
    asked: list[str] = []
    hub = socket.create_server(("127.0.0.1", 0))

    def hang_up() -> None:
        with suppress(OSError):
            while True:
                hub.accept()[0].close()
                asked.append("asked")

    url = "http://{}:{}".format(*hub.getsockname())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    whole = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", whole)
    thread = Thread(target=hang_up)
    thread.start()
    yield asked
    hub.shutdown(socket.SHUT_RDWR)
    hub.close()
    thread.join()


def test_a_hub_that_cannot_be_reached_is_asked_once(broken_hub: list[str]) -> None:
    """Red when a misspelt name takes a minute to be refused where there is no network."""
    assert "'nobody/nothing'" in refusal("nobody/nothing")
    assert not names_head("nobody/nothing")
    assert broken_hub == ["asked"]
    assert not constants.HF_HUB_OFFLINE


def test_what_cannot_be_had_from_the_hub_is_no_architecture(
    broken_hub: list[str], whole: Path
) -> None:
    """Red when a network that is down is told as a model that cannot be served, or asked anew."""
    lost = replace(Checkpoint.read(str(whole)), name="nobody/nothing")
    for dtype in ("int8", "float32"):
        with pytest.raises(ModelLoadError, match="cannot load 'nobody/nothing'"):
            lost.load(dtype=dtype, device="cpu", max_model_len=64, chunk=16)
    with pytest.raises(ModelLoadError, match="no usable tokenizer for 'nobody/nothing'"):
        load_tokenizer("nobody/nothing")
    with pytest.raises(ModelLoadError, match="there is no adapter 'nobody/else'"):
        Checkpoint.read(str(whole)).load(
            dtype="int8", device="cpu", max_model_len=64, chunk=16, lora="nobody/else"
        )
    with pytest.raises(OSError, match="on the local disk"):
        head_checkpoint._read_weights("nobody/nothing")
    assert broken_hub == ["asked"]


def test_a_folder_asks_no_hub(broken_hub: list[str], whole: Path) -> None:
    """Red when what lies here waits for a network."""
    load(whole)
    assert broken_hub == []
