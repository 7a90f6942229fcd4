"""The engine in this process: load a model with its stages, and generate.

    engine = Engine.load(EngineConfig.from_mapping({"model": "embedded/target"}))
    for step in engine.generate(GenerateRequest("1", prompt=(5, 17), max_tokens=16)):
        print(step)

For Python users, benchmarks and tools. It needs torch and transformers, and nothing of a server.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

from engine.acceleration import accelerate, compile_passes
from engine.code_cache import cache_root, torch_caches
from engine.config import EngineConfig, ModelStageConfig, StageConfig
from engine.decoder import Decoder
from engine.drafting.build import StageBuilder, recognised, stage_names
from engine.drafting.stage import Drafter
from engine.economy import Costs, Economy
from engine.errors import ConfigError
from engine.loading import known_positions, load_model
from engine.model import Model
from engine.passes import CROWD
from engine.passes.background import BackgroundCompiler
from engine.request import Finished, GenerateRequest, LoadProgress, ModelInfo, Output
from engine.scorer import TreeScorer

OnProgress = Callable[[LoadProgress], None]


class Engine:
    """A loaded target with its stages. One request runs at a time."""

    def __init__(
        self,
        config: EngineConfig,
        target: Model,
        builder: StageBuilder,
        on_progress: OnProgress = lambda _: None,
        sibling: "Engine | None" = None,
    ) -> None:
        self._config = config
        self._target = target
        self._builder = builder
        folder = cache_root(config.cache_dir) / "passes"
        # Shared by all lists of stages: who compiles, and what was learnt of each list.
        self._compiler: BackgroundCompiler = (
            sibling._compiler if sibling else BackgroundCompiler(folder)
        )
        self._economies: dict[tuple[StageConfig, ...], Economy] = (
            sibling._economies if sibling else {}
        )
        num_loaded = 0

        def announce(stage: StageConfig) -> None:
            nonlocal num_loaded
            num_loaded += 1
            what = stage.model if isinstance(stage, ModelStageConfig) else "n-grams"
            share = num_loaded / (len(config.stages) + 1)
            on_progress(LoadProgress(f"loading the stage {what}", share))

        drafter = builder.build(config.stages, announce)
        self._acceleration = accelerate(config, self._scorers, self._compiler)
        if self._acceleration.settle(lambda phase: on_progress(LoadProgress(phase, 1.0))):
            self._economies.clear()
        is_known = config.stages in self._economies
        economy = self._economies.setdefault(config.stages, Economy())
        self._decoder = Decoder(target, drafter, economy)
        if not is_known:
            on_progress(LoadProgress("timing passes", 1.0))
            self._decoder.measure()

    @classmethod
    def load(cls, config: EngineConfig, on_progress: OnProgress = lambda _: None) -> Self:
        """Load the weights and tables that `config` names, telling `on_progress` of each part.

        Raises ModelLoadError or ConfigError.
        """
        os.environ.update(torch_caches(cache_root(config.cache_dir)))
        if config.threads or config.num_engines > 1:
            share = max(1, CROWD.num_threads // config.num_engines)
            CROWD.set_num_threads(config.threads or share)
        on_progress(LoadProgress(f"loading the target {config.model}", 0.0))
        known = known_positions(config.model)
        if (wanted := config.max_model_len or 0) > known:
            raise ConfigError(
                f"max_model_len is {wanted}, but {config.model} knows {known} positions: set it to "
                f"{known} or less."
            )
        target = load_model(
            config.model,
            dtype=config.dtype,
            device=config.device,
            max_model_len=config.max_model_len,
            chunk=config.prefill_chunk,
            num_engines=config.num_engines,
        )
        config = replace(config, stages=recognised(config.stages), threads=CROWD.num_threads)
        return cls(config, target, StageBuilder(config, target), on_progress)

    def with_stages(self, stages: Sequence[StageConfig]) -> Self:
        """The same weights behind another list of stages; not while a request is running."""
        config = replace(self._config, stages=tuple(stages))
        return type(self)(config, self._target, self._builder, sibling=self)

    def with_drafter(self, drafter: Drafter) -> Self:
        """The same weights behind a drafter that no list of stages names, as a benchmark has it."""
        engine = self.with_stages(())
        engine._decoder.drafter = drafter
        return engine

    @property
    def stages(self) -> tuple[StageConfig, ...]:
        """The stages, from the one nearest the target downwards."""
        return self._config.stages

    @property
    def info(self) -> ModelInfo:
        """What was loaded."""
        limits = self._target.limits
        return ModelInfo(
            model=self._config.model,
            max_model_len=self._target.max_model_len,
            vocab_size=limits.vocab_size,
            eos_token_ids=limits.eos_token_ids,
            dtype=str(self._target.dtype).removeprefix("torch."),
            device=str(self._target.device),
            num_parameters=self._target.num_parameters,
            stages=stage_names(self._config.stages),
            passes={name: scorer.runner.form for name, scorer in self._scorers.items()},
            is_compiling=self._acceleration.is_under_way,
            precision=self._target.precision,
            refusals=self._acceleration.refusals,
        )

    @property
    def costs(self) -> Costs:
        """What passes cost in greedy texts: curves are named as in `info.passes`."""
        return self._decoder.economy.costs()

    @property
    def weight_bytes(self) -> dict[str, int]:
        """Bytes of weights that one pass reads, of each network, named as in `info.passes`."""
        return {name: scorer.weight_bytes for name, scorer in self._scorers.items()}

    @property
    def _scorers(self) -> dict[str, TreeScorer]:
        """Whatever runs passes, by the name of its stage."""
        stages = self._config.stages
        named = zip(stage_names(stages), stages, strict=True)
        names = [name for name, stage in named if isinstance(stage, ModelStageConfig)]
        return dict(zip(["target", *names], self._builder.scorers(stages), strict=True))

    def refresh(self) -> ModelInfo:
        """Adopt what passes there are and tell how things stand; nothing was compiled after it."""
        is_compiling = self._acceleration.is_under_way
        self.adopt_passes()
        return replace(self.info, is_compiling=is_compiling)

    def adopt_passes(self) -> bool:
        """Change over to passes that have become ready meanwhile; whether there were any.

        For the time between two requests. If there are some it takes seconds: they are proven
        first, and timed.
        """
        has_changed = self._acceleration.adopt()
        if has_changed:
            self._economies.clear()
            self._economies[self._config.stages] = self._decoder.economy
            self._decoder.measure()
        return has_changed

    def compile_passes(self, folder: Path) -> list[str]:
        """Compile here and now, for other processes; see `acceleration.compile_passes`."""
        return compile_passes(self._scorers, folder)

    @property
    def is_busy(self) -> bool:
        """Whether there is anything to do in a step."""
        return self._decoder.is_busy

    def add(self, request: GenerateRequest) -> None:
        """Let a request wait for its turn; see `Decoder.add`."""
        self._decoder.add(request)

    def cancel(self, request_id: str) -> None:
        """End a request, which the next step tells."""
        self._decoder.cancel(request_id)

    def step(self) -> list[Output | Finished]:
        """Go on: what has come of the requests, nothing while a prompt is read."""
        return self._decoder.step()

    def generate(self, request: GenerateRequest) -> Iterator[Output | Finished]:
        """Continue a prompt, when nothing else is to be done; see `Decoder.generate`."""
        return self._decoder.generate(request)
