"""The engine in this process: load a model with its stages, and generate.

    engine = Engine.load(EngineConfig.from_mapping({"model": "embedded/target"}))
    for step in engine.generate(GenerateRequest("1", prompt=(5, 17), max_tokens=16)):
        print(step)

For Python users, benchmarks and tools. It needs torch and transformers, and nothing of a server.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Self

import torch

from engine.config import EngineConfig, ModelStageConfig, StageConfig
from engine.decoder import Decoder
from engine.drafting.build import StageBuilder, recognised, stage_names
from engine.economy import Economy
from engine.errors import ConfigError
from engine.loading import load_model
from engine.model import Model
from engine.request import Finished, GenerateRequest, LoadProgress, ModelInfo, Step
from engine.scorer import never


class Engine:
    """A loaded target with its stages. One request runs at a time."""

    def __init__(
        self,
        name: str,
        target: Model,
        builder: StageBuilder,
        stages: Sequence[StageConfig],
        on_stage: Callable[[StageConfig], None] = lambda _: None,
        economies: dict[tuple[StageConfig, ...], Economy] | None = None,
    ) -> None:
        self._name = name
        self._target = target
        self._builder = builder
        self._stages = tuple(stages)
        # What was learnt of a list of stages is kept for when it is asked for again.
        self._economies = {} if economies is None else economies
        is_new = self._stages not in self._economies
        economy = self._economies.setdefault(self._stages, Economy())
        self._decoder = Decoder(target, builder.build(stages, on_stage), economy)
        if is_new:
            self.measure()

    @classmethod
    def load(
        cls, config: EngineConfig, on_progress: Callable[[LoadProgress], None] = lambda _: None
    ) -> Self:
        """Load the weights and tables that `config` names, telling `on_progress` of each part.

        Raises ModelLoadError or ConfigError.
        """
        if config.threads:
            torch.set_num_threads(config.threads)
        on_progress(LoadProgress(f"loading the target {config.model}", 0.0))
        target = load_model(
            config.model,
            dtype=config.dtype,
            device=config.device,
            max_model_len=config.max_model_len,
            chunk=config.prefill_chunk,
        )
        if (wanted := config.max_model_len or 0) > (known := target.limits.max_positions):
            raise ConfigError(
                f"max_model_len is {wanted}, but {config.model} knows {known} positions: set it to "
                f"{known} or less."
            )
        stages = recognised(config.stages)
        num_parts = len(stages) + 1
        num_loaded = 0

        def announce(stage: StageConfig) -> None:
            nonlocal num_loaded
            num_loaded += 1
            what = stage.model if isinstance(stage, ModelStageConfig) else "n-grams"
            on_progress(LoadProgress(f"loading the stage {what}", num_loaded / num_parts))

        builder = StageBuilder(config, target)
        return cls(config.model, target, builder, stages, announce)

    def with_stages(self, stages: Sequence[StageConfig]) -> Self:
        """The same weights behind another list of stages; not while a request is running."""
        economies = self._economies
        return type(self)(self._name, self._target, self._builder, stages, economies=economies)

    def measure(self) -> None:
        """Time the passes anew, because they run in another way; between requests, about 1 s."""
        self._decoder.measure()

    @property
    def stages(self) -> tuple[StageConfig, ...]:
        """The stages, from the one nearest the target downwards."""
        return self._stages

    @property
    def info(self) -> ModelInfo:
        """What was loaded."""
        limits = self._target.limits
        return ModelInfo(
            model=self._name,
            max_model_len=self._target.max_model_len,
            vocab_size=limits.vocab_size,
            eos_token_ids=limits.eos_token_ids,
            dtype=str(self._target.dtype).removeprefix("torch."),
            device=str(self._target.device),
            num_parameters=self._target.num_parameters,
            stages=stage_names(self._stages),
        )

    def generate(
        self, request: GenerateRequest, is_cancelled: Callable[[], bool] = never
    ) -> Iterator[Step | Finished]:
        """Continue a prompt; see `Decoder.generate`."""
        return self._decoder.generate(request, is_cancelled)
