"""A Llama checkpoint grown in width and depth: the same text, at the cost of a larger model.

What is added writes nothing. New channels of the residual stream hold zeros: no embedding and no
output projection fills them. New heads, units and layers compute on random weights, and their
columns in the output projections are zero. A norm over more channels sees a smaller mean square,
which a smaller weight and epsilon undo. So logits stay the same beyond rounding, drafters are
accepted as before, and a pass reads and multiplies what a model of the new shape would.

    grow_checkpoint(Path("target"), Path("grown"), SIZES[300])

It works layer by layer, each in a file of its own, and needs the memory of one layer of the new
shape beside the old checkpoint.
"""

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.errors import ConfigError
from engine.names import resolve

_CONFIG, _INDEX = "config.json", "model.safetensors.index.json"
_DEVIATION = 0.02
"""Of random weights, as Llamas are initialised."""

_AXES = {
    "self_attn.q_proj.weight": ("heads", "channels"),
    "self_attn.k_proj.weight": ("kv_heads", "channels"),
    "self_attn.v_proj.weight": ("kv_heads", "channels"),
    "self_attn.o_proj.weight": ("channels", "heads"),
    "mlp.gate_proj.weight": ("units", "channels"),
    "mlp.up_proj.weight": ("units", "channels"),
    "mlp.down_proj.weight": ("channels", "units"),
}
"""What the rows and columns of a layer's matrices stand for; rows of channels write."""

_NORMS = ("input_layernorm.weight", "post_attention_layernorm.weight")


@dataclass(frozen=True, slots=True)
class LlamaShape:
    """What may grow, by the keys of `config.json`; the size of a head and the vocabulary stay."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """The shape that a `config.json` describes."""
        return cls(**{field.name: config[field.name] for field in fields(cls)})

    @property
    def group(self) -> int:
        """Heads that share one key-value head."""
        return self.num_attention_heads // self.num_key_value_heads

    def num_parameters(self, vocab_size: int, head_size: int = 64) -> int:
        """Weights with a tied embedding, norms included."""
        heads = self.num_attention_heads + self.num_key_value_heads
        matrices = self.hidden_size * (2 * heads * head_size + 3 * self.intermediate_size)
        layers = self.num_hidden_layers * (matrices + 2 * self.hidden_size)
        return layers + self.hidden_size * (vocab_size + 1)


SIZES: Mapping[int, LlamaShape] = {
    30: LlamaShape(512, 1536, 8, 8, 8),
    100: LlamaShape(768, 2304, 12, 12, 12),
    300: LlamaShape(1024, 2560, 24, 16, 16),
    762: LlamaShape(1280, 3712, 36, 20, 20),
}
"""The embedded target's larger shapes by million weights: GPT-2's, keys and values in full."""


@contextmanager
def grown(model: str, shape: LlamaShape | None) -> Iterator[str]:
    """The name of `model` in another shape, a temporary folder; its own name if `shape` is None.

    `model` is a folder or `embedded/...`. Raises ConfigError as `grow_checkpoint` does.
    """
    if shape is None:
        yield model
        return
    with TemporaryDirectory(prefix="stagetree-grown-") as folder:
        grow_checkpoint(Path(resolve(model)), Path(folder), shape)
        yield folder


def grow_checkpoint(
    source: Path,
    folder: Path,
    shape: LlamaShape,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write the checkpoint of `source`, grown to `shape`, to an existing folder.

    In less than float32 the norms are rounded, which are rescaled, and whatever was in float32.
    Raises ConfigError if `source` is no folder of a Llama without biases, or has more than `shape`.
    """
    config = _read_config(source)
    growth = _Growth(config, shape, seed, dtype)
    known: dict[str, Tensor] = {}
    for file in source.iterdir():
        if file.suffix == ".safetensors":
            known |= load_file(file)
        elif file.name not in (_CONFIG, _INDEX):
            shutil.copy(file, folder)
    places: dict[str, str] = {}
    for number, part in enumerate(growth.parts(known)):
        name = f"model-{number}.safetensors"
        rounded = {key: weight.to(dtype) for key, weight in part.items()}
        save_file(rounded, folder / name, metadata={"format": "pt"})
        places |= dict.fromkeys(part, name)
    (folder / _INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (folder / _CONFIG).write_text(json.dumps(growth.config, indent=2))


def _read_config(source: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((source / _CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{source} is no folder of a checkpoint: {error}") from error
    if config.get("model_type") != "llama" or config["attention_bias"] or config["mlp_bias"]:
        raise ConfigError(f"{source} cannot be grown: only a Llama without biases can.")
    return config


@dataclass(frozen=True, slots=True)
class _Axis:
    """One side of a matrix: its new size, and which old index stands at which new place."""

    size: int
    places: Tensor
    olds: Tensor

    @classmethod
    def prefix(cls, old: int, new: int) -> Self:
        """The old ones first, in order."""
        return cls(new, torch.arange(old), torch.arange(old))

    @classmethod
    def of_heads(cls, size: int, head_size: int, olds: Mapping[int, int]) -> Self:
        """Whole heads: `olds` is the old head by its new place."""
        within = torch.arange(head_size)
        places, heads = (torch.tensor(list(each)) for each in (olds.keys(), olds.values()))
        return cls(
            size * head_size,
            (places[:, None] * head_size + within).flatten(),
            (heads[:, None] * head_size + within).flatten(),
        )


class _Growth:
    """From one shape to another, tensor by tensor."""

    def __init__(
        self, config: Mapping[str, Any], new: LlamaShape, seed: int, dtype: torch.dtype
    ) -> None:
        old = LlamaShape.of(config)
        _check(old, new)
        head_size = config.get("head_dim") or old.hidden_size // old.num_attention_heads
        self.config = {
            **config,
            **asdict(new),
            "head_dim": head_size,
            "rms_norm_eps": config["rms_norm_eps"] * old.hidden_size / new.hidden_size,
            "dtype": str(dtype).removeprefix("torch."),
        }
        self._old, self._new = old, new
        self._random = torch.Generator().manual_seed(seed)
        heads, kv_heads = _heads(old, new)
        self._axes = {
            "channels": _Axis.prefix(old.hidden_size, new.hidden_size),
            "units": _Axis.prefix(old.intermediate_size, new.intermediate_size),
            "heads": _Axis.of_heads(new.num_attention_heads, head_size, heads),
            "kv_heads": _Axis.of_heads(new.num_key_value_heads, head_size, kv_heads),
        }

    def parts(self, known: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        """What is outside the layers, then every layer."""
        embeddings = known.keys() & {"model.embed_tokens.weight", "lm_head.weight"}
        yield {
            "model.norm.weight": self._norm(known["model.norm.weight"]),
            **{name: self._embedding(known[name]) for name in embeddings},
        }
        for layer in range(self._new.num_hidden_layers):
            prefix = f"model.layers.{layer}."
            old = {name.removeprefix(prefix): weight for name, weight in known.items()}
            yield {prefix + name: weight for name, weight in self._layer(old).items()}

    def _layer(self, old: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A layer's weights by their names in it; a new layer's, if it is not in `old`."""
        norms = {name: self._norm(old.get(name)) for name in _NORMS}
        return norms | {name: self._matrix(old.get(name), *axes) for name, axes in _AXES.items()}

    def _norm(self, old: Tensor | None) -> Tensor:
        weight = torch.ones(self._new.hidden_size)
        if old is not None:
            scale = math.sqrt(self._old.hidden_size / self._new.hidden_size)
            weight[: len(old)] = old.float() * scale
        return weight

    def _embedding(self, old: Tensor) -> Tensor:
        """What makes hidden states of tokens, or reads the last ones: nothing in new channels."""
        weight = torch.zeros(len(old), self._new.hidden_size)
        weight[:, : old.shape[1]] = old.float()
        return weight

    def _matrix(self, old: Tensor | None, row_axis: str, column_axis: str) -> Tensor:
        """Random, but zero where it writes to the residual stream; the old one in its places."""
        rows, columns = self._axes[row_axis], self._axes[column_axis]
        weight = torch.zeros(rows.size, columns.size)
        if row_axis != "channels":
            weight.normal_(0.0, _DEVIATION, generator=self._random)
            weight = weight.bfloat16().float()  # as checkpoints come, and read as fast as those
        if old is not None:
            picked = old.float()[rows.olds[:, None], columns.olds]
            weight[rows.places[:, None], columns.places] = picked
        return weight


def _heads(old: LlamaShape, new: LlamaShape) -> tuple[dict[int, int], dict[int, int]]:
    """The old head at each new place, and the same of key-value heads.

    A key-value head is copied if the new ones serve fewer heads each.
    """
    copies = math.ceil(old.group / new.group)
    if copies * old.num_key_value_heads > new.num_key_value_heads:
        raise ConfigError(
            f"{old.num_key_value_heads} key-value heads of {old.group} heads each need "
            f"{copies * old.num_key_value_heads} of {new.group}, not {new.num_key_value_heads}."
        )
    kv_heads = {place: place // copies for place in range(copies * old.num_key_value_heads)}
    heads = {
        head // old.group * copies * new.group + head % old.group: head
        for head in range(old.num_attention_heads)
    }
    return heads, kv_heads


def _check(old: LlamaShape, new: LlamaShape) -> None:
    for name, size in asdict(old).items():
        if asdict(new)[name] < size:
            raise ConfigError(f"{name} is {size}: it cannot shrink to {asdict(new)[name]}.")
    if new.num_attention_heads % new.num_key_value_heads:
        raise ConfigError(
            f"{new.num_attention_heads} heads cannot share {new.num_key_value_heads} key-value "
            "heads evenly."
        )
