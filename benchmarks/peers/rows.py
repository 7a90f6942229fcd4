"""What a peer offers: rows of the table, each a way of generating tokens from a prompt."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.config import Dtype, EngineConfig
from engine.names import find_gguf, resolve

DTYPES: Mapping[int, Dtype] = {32: "float32", 16: "bfloat16", 8: "int8", 4: "int4"}
"""Our precisions by the bits of a weight."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What every peer is set up with.

    `window` is the length of the longest prompt with its reply. `work` is a folder for files that
    a peer needs and can make again. `bits` are those of a weight in the rows that are wanted, and
    `ahead` the tokens that a peer drafts in a step whose own number is not measured.
    """

    config: EngineConfig
    threads: int
    window: int
    work: Path
    bits: Sequence[int] = tuple(DTYPES)
    ahead: int = 2

    @property
    def target(self) -> Path:
        """The target's GGUF file, if it is one, or the folder of its checkpoint."""
        return find_gguf(self.config.model) or self.folder

    @property
    def folder(self) -> Path:
        """Where the target's configuration and its tokenizer lie."""
        return Path(resolve(self.config.model))

    @property
    def draft(self) -> Path | None:
        """The folder of the first draft model that the configuration names, if it names one."""
        for stage in (*self.config.stages, *self.config.alternatives):
            if stage.checkpoint is not None and not stage.reads_target:
                return Path(resolve(stage.checkpoint))
        return None


@dataclass(frozen=True, slots=True)
class Task:
    """A prompt, and how many tokens to write."""

    prompt: tuple[int, ...]
    num_tokens: int


Emit = Callable[[Sequence[int]], None]
"""Takes new tokens at the moment that they are known."""

Generate = Callable[[Task, Emit], None]
"""Does a task from an unread prompt, telling of its tokens."""


def _nothing() -> None:
    """For a row that needs no preparation."""


@dataclass(frozen=True, slots=True)
class Row:
    """A way of generating.

    `begin` runs before each round over the prompts, unmeasured. `about` discloses what a reader
    must know of how the row is set up.
    """

    name: str
    precision: str
    generate: Generate
    begin: Callable[[], None] = _nothing
    about: str = ""


@dataclass(frozen=True, slots=True)
class Peer:
    """An engine to compare with: `modules` must be importable, `needs` is how to get them.

    `name` is what it is asked for by; `room` the module of this package with its function `rows`.
    """

    name: str
    room: str
    packages: tuple[str, ...]
    modules: tuple[str, ...] = ()
    needs: str = ""


OURS = Peer("stagetree", "stagetree", ("stagetree",))
PEERS = (
    Peer("transformers", "hugging_face", ("transformers", "torch")),
    Peer(
        "llama.cpp",
        "llama",
        ("llama-cpp-python", "gguf"),
        ("llama_cpp", "gguf"),
        "pip install llama-cpp-python gguf",
    ),
    Peer(
        "openvino",
        "open_vino",
        ("openvino", "openvino-genai", "openvino-tokenizers", "gguf"),
        ("openvino_genai", "openvino_tokenizers", "gguf"),
        "pip install openvino-genai gguf",
    ),
)
