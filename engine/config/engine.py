"""What to load and how to decode with it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from engine.config.section import Positive, Section
from engine.config.stage_list import below_drafter, check_stages, stages_of
from engine.config.stages import Dtype, StageConfig
from engine.errors import ConfigError

Compile = Literal["background", "wait", "cached", "never"]


@dataclass(frozen=True, slots=True)
class EngineConfig(Section):
    """What to load and how to decode with it.

    `model` and a stage's `model` or `table` are a Hugging Face id, a folder, a GGUF file,
    `embedded/...` for the family that ships with the engine, or `smollm2`, which comes as a
    package. `stages` run from the one nearest the target downwards; none is plain decoding.
    `alternatives` are drafters that only a benchmark loads, each in the place of the first stage.
    `lora` is an adapter in PEFT's layout, a folder or an id, to be merged into the model's weights.
    `threads` 0 leaves the number of CPU threads to torch, and takes its part of that number where
    `num_engines` processes share the machine. So many texts are written at once as `max_running`
    says; by default the device and its memory do. Prompts are read in chunks of `prefill_chunk`
    tokens, or as many fewer as others wait for, `prefill_stall_ms` at most.

    `compile` says where a CPU's compiled passes come from: they are made in the `background` and
    taken over when they are ready, made before loading ends (`wait`), taken only if an earlier
    run has left them (`cached`), or not used (`never`). They are kept in `cache_dir`, by default
    `stagetree` in the user's cache folder. On a GPU passes are captured unless it is `never`, and
    fused by torch's compiler first, some seconds a network, unless it is `cached`.
    """

    model: str
    stages: tuple[StageConfig, ...] = ()
    lora: str | None = None
    dtype: Dtype = "auto"
    device: str = "auto"
    max_model_len: Positive | None = None
    prefill_chunk: Positive = 512
    prefill_stall_ms: Positive = 100
    threads: int = 0
    num_engines: Positive = 1
    max_running: Positive | None = None
    compile: Compile = "cached"
    cache_dir: str | None = None
    alternatives: tuple[StageConfig, ...] = ()

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], where: str = "") -> Self:
        """Build the whole configuration; `stages` is a list of mappings, each with a `kind`."""
        stages = stages_of(mapping, "stages", where)
        alternatives = stages_of(mapping, "alternatives", where)
        check_stages(stages, where)
        _check_alternatives(alternatives, stages, where)
        built = {**mapping, "stages": stages, "alternatives": alternatives}
        return super(EngineConfig, cls).from_mapping(built, where)


def _check_alternatives(
    alternatives: tuple[StageConfig, ...], stages: tuple[StageConfig, ...], where: str
) -> None:
    for i, stage in enumerate(alternatives):
        if stage.checkpoint is None:
            raise ConfigError(
                f"{where}alternatives[{i}] takes the place of the first stage, so it must be of "
                "kind model or head: name an n-gram stage in `stages`.",
                "alternatives",
            )
        place = f"{where}with alternatives[{i}] in the first place, "
        check_stages((stage, *below_drafter(stages)), place)
