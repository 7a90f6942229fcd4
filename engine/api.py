"""The engine in this process: load a model with its stages, and generate.

    engine = Engine.load(EngineConfig.from_mapping({"model": "embedded/target"}))
    for step in engine.generate(GenerateRequest("1", prompt=(5, 17), max_tokens=16)):
        print(step)

For Python users, benchmarks and tools. It needs torch and transformers, and nothing of a server.
"""

from collections.abc import Callable, Iterator
from typing import Self

import torch

from engine.config import EngineConfig, ModelStageConfig, StageConfig
from engine.decoder import Decoder, never
from engine.drafting.base import Drafter, NoStage
from engine.drafting.build import Surroundings, build_drafter, stage_names
from engine.loading import load_model
from engine.model import Model
from engine.request import Finished, GenerateRequest, LoadProgress, ModelInfo, Step


class Engine:
    """A loaded target with its stages, decoding one request at a time."""

    def __init__(self, target: Model, drafter: Drafter | None = None, name: str = "") -> None:
        self.target = target
        self._decoder = Decoder(target, drafter or NoStage())
        self._name = name
        self._stages: tuple[str, ...] = ()

    @classmethod
    def load(
        cls, config: EngineConfig, on_progress: Callable[[LoadProgress], None] = lambda _: None
    ) -> Self:
        """Load the weights and tables that `config` names, telling `on_progress` of each part.

        Raises ModelLoadError or ConfigError.
        """
        if config.threads:
            torch.set_num_threads(config.threads)
        num_parts = len(config.stages) + 1
        on_progress(LoadProgress(f"loading the target {config.model}", 0.0))
        target = load_model(
            config.model,
            dtype=config.dtype,
            device=config.device,
            max_model_len=config.max_model_len,
            chunk=config.prefill_chunk,
        )
        num_loaded = 1

        def announce(stage: StageConfig) -> None:
            nonlocal num_loaded
            what = stage.model if isinstance(stage, ModelStageConfig) else "n-gram stage"
            on_progress(LoadProgress(f"loading the draft {what}", num_loaded / num_parts))
            num_loaded += 1

        engine = cls(target, build_drafter(Surroundings(config, target), announce), config.model)
        engine._stages = stage_names(config.stages)
        return engine

    @property
    def info(self) -> ModelInfo:
        """What was loaded."""
        limits = self.target.limits
        return ModelInfo(
            model=self._name,
            max_model_len=self.target.max_model_len,
            vocab_size=limits.vocab_size,
            eos_token_ids=limits.eos_token_ids,
            dtype=str(self.target.dtype).removeprefix("torch."),
            device=str(self.target.device),
            num_parameters=self.target.num_parameters,
            stages=self._stages,
        )

    def generate(
        self, request: GenerateRequest, is_cancelled: Callable[[], bool] = never
    ) -> Iterator[Step | Finished]:
        """Continue a prompt; see `Decoder.generate`."""
        return self._decoder.generate(request, is_cancelled)
