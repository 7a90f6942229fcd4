"""What is trained and measured, in the sizes of the paper and in tiny ones for a rehearsal."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.benchmark import SIZES, LlamaShape
from engine.training.corpus import SOURCES, STANDARD_LIBRARY, Source
from engine.training.recipe import Lengths, Recipe
from engine.training.sample import SamplePlan

_LARGE = ("scipy", "pandas", "sklearn", "statsmodels", "jax")
"""Packages under the BSD licence or Apache's that machines for learning often have."""

_SHARE = 0.3
"""Of the files of large packages: some ten million tokens of text, as many as minutes allow."""

_TEXTS = (
    *SOURCES,
    *(Source(package, "BSD-3-Clause or Apache-2.0", _SHARE) for package in _LARGE),
)


@dataclass(frozen=True, slots=True)
class Plan:
    """Shapes, budgets and workload of one run.

    `target` and `draft` are width and layers; `grown` is the shape that is measured. The `shares`
    of all minutes are those of the trainings and of the sampling, by stage. `trees` are draft nodes
    and draft passes of a step. `backend` compiles Hugging Face's steps.
    """

    target: tuple[int, int] = (1024, 12)
    draft: tuple[int, int] = (896, 4)
    grown: LlamaShape = SIZES[762]
    head_layers: tuple[int, int] = (4, 8)
    shares: Mapping[str, float] = field(
        default_factory=lambda: {"target": 0.27, "draft": 0.08, "head": 0.07, "table": 0.05}
    )
    max_steps: int | None = None
    batch_tokens: int = 30_720
    head_batch_tokens: int = 7_680
    lengths: Lengths = ((0.0, 256), (0.75, 512), (0.92, 1024))
    is_half: bool = True
    samples: SamplePlan = field(
        default_factory=lambda: SamplePlan(12_000_000, num_sequences=1024, length=128)
    )
    table_bytes: int = 64_000_000
    sources: tuple[Source, ...] = _TEXTS
    num_prompts: int = 8
    prompt_length: int = 96
    num_tokens: int = 64
    repetitions: int = 5
    trees: tuple[int, int] = (32, 4)
    guesses: int = 8
    backend: str = "inductor"
    context: int = 256
    rounds: int = 7
    shapes: Mapping[str, Mapping[str, Any]] = field(
        default_factory=lambda: {
            "1B": _llama(2048, 8192, 16, tie_word_embeddings=True),
            "8B": _llama(4096, 14336, 32, tie_word_embeddings=False),
        }
    )

    def recipe(self, stage: str, minutes: float) -> Recipe:
        """How to train a stage, of all the minutes that there are."""
        return Recipe(
            self.shares[stage] * minutes,
            max_steps=self.max_steps,
            batch_tokens=self.head_batch_tokens if stage == "head" else self.batch_tokens,
            lengths=self.lengths,
            measure_every=200,
            is_half=self.is_half,
        )


def _llama(
    hidden_size: int, intermediate_size: int, num_layers: int, **more: Any
) -> dict[str, Any]:
    """The keys of a Llama 3 with 32 heads over 8, for `LlamaConfig`."""
    return {
        "vocab_size": 128_256,
        "hidden_size": hidden_size,
        "intermediate_size": intermediate_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 2048,
        "bos_token_id": None,
        "eos_token_id": None,
        **more,
    }


FULL = Plan()
_TINY_LLAMA = {
    **_llama(64, 128, 1),
    "vocab_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
SMOKE = Plan(
    target=(64, 1),
    draft=(32, 1),
    grown=LlamaShape(128, 256, 3, 2, 2),
    head_layers=(0, 1),
    max_steps=8,
    batch_tokens=256,
    head_batch_tokens=256,
    lengths=((0.0, 64),),
    is_half=False,  # a CPU may have no units for it
    samples=SamplePlan(2_000, num_sequences=32, length=32),
    table_bytes=100_000,
    sources=(Source(STANDARD_LIBRARY, "PSF-2.0", 0.06),),
    num_prompts=2,
    prompt_length=24,
    num_tokens=24,
    repetitions=2,
    trees=(8, 2),
    guesses=4,
    backend="eager",
    context=32,
    rounds=2,
    shapes={
        "tiny": {**_TINY_LLAMA, "tie_word_embeddings": True},
        "small": {**_TINY_LLAMA, "num_hidden_layers": 2, "tie_word_embeddings": False},
    },
)
