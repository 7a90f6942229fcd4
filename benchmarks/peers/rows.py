"""What a peer offers: rows of the table, each a way of generating tokens from a prompt."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.config import EngineConfig
from engine.names import resolve


@dataclass(frozen=True, slots=True)
class Setup:
    """What every peer is set up with.

    `window` is the length of the longest prompt with its reply. `work` is a folder for files that
    a peer needs and can make again.
    """

    config: EngineConfig
    threads: int
    window: int
    work: Path

    @property
    def target(self) -> Path:
        """The folder of the target's checkpoint."""
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
