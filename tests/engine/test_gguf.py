"""GGUF files: the model in them is the one that they were made of, or a line says why not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.errors import ModelLoadError
from engine.loading import Checkpoint, load_model
from engine.loading.weights import StoredWeights
from engine.model import Model
from engine.names import described, find_gguf, resolve
from engine.rows import Tokens
from engine.tokenizer import load_tokenizer
from engine.tree import TokenTree
from engine.weights import IntegerEmbedding, IntegerLinear, Precision
from tests import gguf_files
from tests.checkpoints import make_network

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
SHAPE = {"vocab_size": len(gguf_files.tokens()), "hidden_size": 64, "intermediate_size": 96}
ARCHITECTURES = {
    "llama": ("llama", {}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    "gemma2": ("gemma2", {"query_pre_attn_scalar": 8}),
    "gemma3": ("gemma3_text", {"query_pre_attn_scalar": 8, "num_hidden_layers": 7}),
    "phi3": ("phi3", {}),
}
"""By their names in GGUF, those in transformers, and what is particular to them."""
KINDS = ("F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")
TEXT = [5, 9, 33, 70, 101, 7, 8, 90, 12, 44]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def loaded(name: Path | str, dtype: str = "float32", **given: int) -> Model:
    return load_model(str(name), dtype=dtype, device="cpu", max_model_len=64, chunk=16, **given)


def logits(model: Model) -> Tensor:
    return model.score([Tokens(TEXT)], TokenTree(TEXT[-1]))


def refusal(name: Path | str) -> str:
    with pytest.raises(ModelLoadError) as caught:
        loaded(name)
    told = str(caught.value)
    assert "\n" not in told and str(name) in told
    return told


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_file_is_the_checkpoint_that_it_was_made_of(architecture: str, tmp_path: Path) -> None:
    """Red when rows stay in llama.cpp's order, a norm keeps its one, or a size is a default."""
    kind, shape = ARCHITECTURES[architecture]
    network = make_network(kind, **SHAPE, **shape)
    file = gguf_files.write(tmp_path / "model.gguf", network, architecture=architecture)
    network.save_pretrained(tmp_path / "checkpoint")
    found = loaded(file)
    assert (logits(found) - logits(loaded(tmp_path / "checkpoint"))).abs().max() < 1e-5
    assert found.limits.window == loaded(tmp_path / "checkpoint").limits.window


@pytest.mark.parametrize("kind", [*KINDS, *gguf_files.K_QUANTS])
def test_every_kind_of_block_becomes_the_numbers_that_it_stands_for(
    kind: str, tmp_path: Path
) -> None:
    """Red when a kind is read as another, or rows are put in order after they were cut."""
    shape = SHAPE | {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1}
    network = make_network(**shape)
    file = gguf_files.write(tmp_path / "model.gguf", network, kind)
    config, float32 = Checkpoint.read(str(file)).config, Precision.of(torch.float32)
    weights = StoredWeights(str(file), config)
    found, _ = weights.load(float32, torch.device("cpu"), num_engines=1, keeps_ends=False)
    for ours, given in zip(found.parameters(), network.parameters(), strict=True):
        assert torch.equal(ours, given)


@pytest.mark.parametrize(
    ("kind", "dtype", "chosen", "bits"),
    [
        ("Q8_0", "auto", "int8", 8),
        ("Q4_0", "auto", "int4", 4),
        ("Q4_1", "auto", "int4", 4),
        ("Q4_K", "auto", "int4", 4),
        ("Q6_K", "auto", "int8", 8),
        ("Q5_1", "int4", "int4", 8),
        ("Q4_1", "int8", "int8", 4),
        ("Q8_0", "int4", "int4", 4),
        ("BF16", "int4", "int4", 4),
        ("BF16", "int8", "int8", 8),
        ("BF16", "auto", "float32", 32),
    ],
)
def test_blocks_are_computed_in_the_bits_that_they_have(
    kind: str, dtype: str, chosen: str, bits: int, tmp_path: Path
) -> None:
    """Red when blocks that our groups hold are rounded once more, or read in more bits than need
    be."""
    shape = SHAPE | {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1}
    network = make_network(**shape)
    file = gguf_files.write(tmp_path / "model.gguf", network, kind)
    model = loaded(file, dtype)
    assert model.precision.name == chosen
    layer, given = (each.model.layers[0].self_attn.q_proj for each in (model.network, network))
    if bits == 32:
        return
    assert isinstance(layer, IntegerLinear) and (layer.minima is not None) == (bits == 4)
    error, step = (layer.weight - given.weight).abs(), layer.scales.float().abs().max()
    is_exact = (kind, bits) in {("Q8_0", 8), ("Q4_0", 4), ("Q4_1", 4)}
    most = 0.02 if kind == "Q4_K" else 0.51  # of a step: the scales of Q4_K alone are rounded
    assert error.max() <= (0 if is_exact else most * step)
    output = model.network.lm_head
    assert (output.minima is None) == (kind not in ("Q4_0", "Q4_1", "Q4_K"))


def test_rotary_positions_are_scaled_as_llama_3s_are(tmp_path: Path) -> None:
    """Red when the factors that a file keeps in place of their parameters are left over."""
    rope = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    shape = SHAPE | {"hidden_size": 256, "max_position_embeddings": 32768}
    network = make_network(**shape, rope_parameters=rope)
    plain = make_network(**shape).model.rotary_emb.inv_freq
    factors = (plain / network.model.rotary_emb.inv_freq).numpy()
    assert factors.max() > 2
    write = {"tensors": {"rope_freqs.weight": factors}}
    file = gguf_files.write(tmp_path / "model.gguf", network, **write)
    found = loaded(file).network.model.rotary_emb.inv_freq
    assert torch.allclose(found, network.model.rotary_emb.inv_freq, rtol=1e-5)
    write = {"tensors": {"rope_freqs.weight": factors**2}}
    other = gguf_files.write(tmp_path / "other.gguf", network, **write)
    assert "rotary positions in a way (its own) that is not read" in refusal(other)


@pytest.mark.parametrize("scaling", ["linear", "yarn", "longrope"])
def test_rotary_positions_are_scaled_as_the_file_says(scaling: str, tmp_path: Path) -> None:
    """Red when a scaling is left out, as transformers does, or one is guessed."""
    rope = {"rope_type": scaling, "rope_theta": 10000.0, "factor": 4.0}
    if scaling == "yarn":
        rope["original_max_position_embeddings"] = 128
    facts = {"type": scaling, "factor": 4.0, "original_context_length": 128}
    facts = {f"llama.rope.scaling.{key}": value for key, value in facts.items()}
    network = (
        make_network(**SHAPE)
        if scaling == "longrope"
        else make_network(**SHAPE, rope_parameters=rope)
    )
    file = gguf_files.write(tmp_path / "model.gguf", network, facts=facts)
    if scaling == "longrope":
        assert "(longrope) that is not read" in refusal(file)
        return
    found = loaded(file).network.model.rotary_emb
    assert torch.allclose(found.inv_freq, network.model.rotary_emb.inv_freq)
    assert found.attention_scaling == pytest.approx(network.model.rotary_emb.attention_scaling)


def test_a_head_that_is_rotated_in_part_is_so_or_refused(tmp_path: Path) -> None:
    """Red when all of a head is rotated, of which the model was trained to rotate some."""
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
    network = make_network("phi3", **SHAPE, rope_parameters=rope)
    file = gguf_files.write(tmp_path / "a.gguf", network, architecture="phi3")
    network.save_pretrained(tmp_path / "checkpoint")
    assert (logits(loaded(file)) - logits(loaded(tmp_path / "checkpoint"))).abs().max() < 1e-5
    file = gguf_files.write(tmp_path / "b.gguf", make_network(**SHAPE, rope_parameters=rope))
    assert "rotates 8 of the 16 numbers of a head" in refusal(file)


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_an_embedding_that_scales_what_it_finds_is_rounded_like_any_other(
    dtype: str, tmp_path: Path
) -> None:
    """Red when the largest matrix of a small Gemma stays in 32 bits, or loses its factor."""
    network = make_network("gemma3_text", **SHAPE, query_pre_attn_scalar=8)
    file = gguf_files.write(tmp_path / "model.gguf", network, architecture="gemma3")
    embedding = loaded(file, dtype).network.get_input_embeddings()
    assert isinstance(embedding, IntegerEmbedding)
    ids = torch.arange(SHAPE["vocab_size"])
    error = (embedding(ids) - network.get_input_embeddings()(ids)).abs()
    assert error.max() <= 0.51 * embedding.scales.float().max() * SHAPE["hidden_size"] ** 0.5


def test_what_became_of_a_files_blocks_is_told(tmp_path: Path) -> None:
    """Red when the log says that blocks are as they were which have been widened."""
    shape = SHAPE | {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1}
    for kind, dtype, told in (
        ("Q4_0", "auto", "that of the file's blocks: Q4_0 kept"),
        ("Q6_K", "auto", "that of the file's blocks: Q6_K in 8 bits"),
        ("Q8_0", "int4", "as asked for: Q8_0 kept, Q8_0 in 4 bits"),
        ("Q4_1", "float32", "as asked for: Q4_1 widened"),
        ("BF16", "int8", "as asked for"),
    ):
        file = gguf_files.write(tmp_path / f"{kind}.gguf", make_network(**shape), kind)
        assert loaded(file, dtype).precision.reason == told


@pytest.mark.parametrize("dtype", ["float32", "int8", "int4"])
def test_a_tied_embedding_is_counted_once(dtype: str, tmp_path: Path) -> None:
    """Red when a model has a fifth more parameters once it is in codes."""
    network = make_network(**SHAPE, tie_word_embeddings=True)
    file = gguf_files.write(tmp_path / "model.gguf", network, "Q8_0")
    num_weights = sum(weight.numel() for weight in network.parameters())
    assert loaded(file, dtype).num_parameters == num_weights


def test_all_that_ends_a_turn_ends_a_text(tmp_path: Path) -> None:
    """Red when a chat model writes on behind the token that ends its turn."""
    facts = {"tokenizer.ggml.eot_token_id": 0}
    file = gguf_files.write(tmp_path / "model.gguf", make_network(**SHAPE), facts=facts)
    assert Checkpoint.read(str(file)).limits.eos_token_ids == (gguf_files.END, 0)
    tokenizer = load_tokenizer(file)
    assert tokenizer.decode(tokenizer.encode("he is äöü")) == "he is äöü"
    assert tokenizer.chat_template == gguf_files.TEMPLATE


def test_a_folder_with_one_file_is_that_file(tmp_path: Path) -> None:
    """Red when a name is guessed among several, or a folder in Hugging Face's layout is passed."""
    folder = tmp_path / "model"
    folder.mkdir()
    file = gguf_files.write(folder / "a.gguf", make_network(**SHAPE))
    assert find_gguf(str(folder)) == file
    assert resolve(str(folder)) == str(described(file))
    (folder / "b.gguf").write_bytes(file.read_bytes())
    assert "several GGUF files: name one of them (a.gguf, b.gguf)" in refusal(folder)
    (folder / "config.json").write_text("{}")
    assert find_gguf(str(folder)) is None


def test_what_identifies_the_weights_knows_how_they_were_rounded(tmp_path: Path) -> None:
    """Red when a reply of four bits says that it is of the model in eight."""
    kinds = ("Q8_0", "Q4_0", "Q4_1")
    files = [
        gguf_files.write(tmp_path / f"{kind}.gguf", make_network(**SHAPE), kind) for kind in kinds
    ]
    assert len({loaded(file, "auto").fingerprint for file in files}) == len(kinds)


def test_another_file_at_the_same_place_is_read_anew(tmp_path: Path) -> None:
    """Red when the model of last week's file is served from the cache."""
    file = gguf_files.write(tmp_path / "model.gguf", make_network(**SHAPE))
    before = logits(loaded(file))
    gguf_files.write(file, make_network(**SHAPE, seed=1, num_hidden_layers=3))
    assert loaded(file).num_layers == 3
    assert not torch.equal(logits(loaded(file)), before)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda content: content[:-100], "damaged or cut short: download it"),
        (lambda content: content[:500], "damaged or cut short: download it"),
        (lambda content: b"{}", "It is no GGUF file"),
        (lambda content: b"", "It is no GGUF file"),
        (lambda content: content.replace(b"llama", b"mamba"), "architecture 'mamba', and GGUF"),
    ],
)
def test_a_file_that_is_none_is_told_in_one_line(damage: object, told: str, tmp_path: Path) -> None:
    """Red when a broken download ends in a traceback, or in a model of other weights."""
    assert callable(damage)
    file = gguf_files.write(tmp_path / "model.gguf", make_network(**SHAPE))
    file.write_bytes(damage(file.read_bytes()))
    assert told in refusal(file)
    assert "there is no file" in refusal(tmp_path / "nothing.gguf")


def test_a_quantisation_that_nobody_reads_is_told(tmp_path: Path) -> None:
    """Red when an unknown number is an error of numpy's, or the remedy is left out."""
    odd = np.zeros((4, 18), np.int8)
    file = tmp_path / "model.gguf"
    for number in (4, 99):  # one that is no longer, and one that is not yet
        gguf_files.write(file, make_network(**SHAPE), tensors={"odd": odd})
        content, name = file.read_bytes(), b"\x03\0\0\0\0\0\0\0odd"
        at = content.index(name) + len(name) + 4 + 2 * 8
        file.write_bytes(content[:at] + number.to_bytes(4, "little") + content[at + 4 :])
        assert f"a quantisation of the number {number} that is not read here" in refusal(file)


def test_what_is_missing_or_left_over_is_named(tmp_path: Path) -> None:
    """Red when weights of a layer are random, or a part of the model is passed over."""
    extra = {"tensors": {"blk.0.attn_sinks.weight": np.zeros(4, np.float32)}}
    file = gguf_files.write(tmp_path / "model.gguf", make_network(**SHAPE), **extra)
    assert "left over: blk.0.attn_sinks.weight" in refusal(file)
    network = make_network(**SHAPE)
    del network.model.layers[1].mlp.up_proj
    file = gguf_files.write(tmp_path / "other.gguf", network)
    assert "missing: model.layers.1.mlp.up_proj.weight" in refusal(file)


def test_one_of_several_parts_is_refused(tmp_path: Path) -> None:
    """Red when half of a model is told as damaged."""
    facts = {"split.count": 3}
    file = gguf_files.write(tmp_path / "model.gguf", make_network(**SHAPE), facts=facts)
    assert "one of several parts: put them together" in refusal(file)


def test_an_output_that_grows_is_rounded_behind_that(tmp_path: Path) -> None:
    """Red when a draft's output is packed before it has its target's ids."""
    network = make_network(**SHAPE, tie_word_embeddings=True)
    file = gguf_files.write(tmp_path / "model.gguf", network)
    given = {"dtype": "int8", "device": "cpu", "max_model_len": 64, "chunk": 16}
    draft = Checkpoint.read(str(file))
    grown = draft.load(**given, vocab_size=SHAPE["vocab_size"] + 8)
    assert logits(grown).shape[-1] == SHAPE["vocab_size"] + 8
    known = logits(grown)[:, : SHAPE["vocab_size"]]
    assert torch.allclose(known, logits(draft.load(**given)), atol=1e-5)
    assert replace(grown.limits, vocab_size=0) == replace(draft.limits, vocab_size=0)
