"""GGUF files of tiny random models, as llama.cpp's converter would have written them."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, TokenType
from tokenizers import pre_tokenizers
from transformers import PreTrainedModel

from benchmarks.peers.gguf_file import gguf_name
from benchmarks.peers.permutation import permuted

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
END = 2
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
K_QUANTS = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
"""What gguf can read and not write: of these, blocks are made up."""
_SCALES = {
    "Q2_K": (80, 0.01, 1.5),
    "Q3_K": (108, 0.002, 0),
    "Q4_K": (0, 0.0006, 7.5),
    "Q5_K": (0, 0.0003, 15.5),
    "Q6_K": (208, 0.0001, 0),
}
"""Where a block has its scale, what that is, and by how much that of minima is larger, which
follows."""


def tokens() -> list[str]:
    """The special tokens, every byte, and the one thing that there is to merge."""
    return [*SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet()), "he"]


def write(
    file: Path,
    network: PreTrainedModel,
    kind: str = "F32",
    architecture: str = "llama",
    facts: Mapping[str, object] | None = None,
    tensors: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """A file of this network, whose matrices are of one kind, and become what is stored.

    `facts` and `tensors` are added.
    """
    writer = GGUFWriter(file, architecture)
    _add_shape(writer, network)
    _add_tokenizer(writer)
    for key, value in (facts or {}).items():
        add = writer.add_string if isinstance(value, str) else writer.add_float32
        (writer.add_uint32 if isinstance(value, int) else add)(key, value)
    for name, data, stored in _tensors(network, architecture, kind):
        writer.add_tensor(name, data, raw_dtype=stored)
    for name, values in (tensors or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _add_shape(writer: GGUFWriter, network: PreTrainedModel) -> None:
    config = network.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope = config.rope_parameters
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    share = rope.get("full_attention", rope).get("partial_rotary_factor", 1)
    writer.add_rope_dimension_count(int(head_dim * share))
    writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if cap := getattr(config, "attn_logit_softcapping", None):
        writer.add_attn_logit_softcapping(cap)
    if cap := getattr(config, "final_logit_softcapping", None):
        writer.add_final_logit_softcapping(cap)
    if window := getattr(config, "sliding_window", None):
        writer.add_sliding_window(window)


def _add_tokenizer(writer: GGUFWriter) -> None:
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


def _tensors(
    network: PreTrainedModel, architecture: str, kind: str
) -> Iterator[tuple[str, np.ndarray, GGMLQuantizationType]]:
    """What is stored by its name in GGUF, changed as llama.cpp's converter changes it.

    The network takes the values that are stored, so that it is the one that the file holds.
    """
    config = network.config
    number = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(number, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for key, weight in network.named_parameters():
        path, _, leaf = key.rpartition(".")
        stored = GGMLQuantizationType[kind if weight.dim() > 1 else "F32"]
        data = _blocks(weight.detach().numpy(), stored)
        weight.data = torch.from_numpy(np.array(gguf.dequantize(data, stored), np.float32))
        if architecture.startswith("gemma") and path.endswith("norm"):
            data = data + 1
        for part, count in heads.items():
            if architecture == "llama" and part in key:
                data = permuted(data.reshape(len(data), -1), count).reshape(data.shape)
        name = gguf_name(f"{path}.weight", names).removesuffix("weight")
        yield name + leaf, data, stored


def _blocks(values: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray:
    """Values (..., in) as bytes or numbers of a kind; of some kinds, other values."""
    if kind.name not in K_QUANTS:
        return gguf.quantize(values, kind)
    _, size = gguf.GGML_QUANT_SIZES[kind]
    rows, columns = values.shape
    generator = np.random.default_rng(rows)
    blocks = generator.integers(0, 256, (rows * columns // 256, size), np.uint8)
    place, scale, of_minima = _SCALES[kind.name]
    scales = generator.uniform(scale / 2, scale, (len(blocks), 1))
    for at, factor in ((place, 1), (place + 2, of_minima)):
        if factor:
            blocks[:, at : at + 2] = (factor * scales).astype(np.float16).view(np.uint8)
    return blocks.reshape(rows, -1)
