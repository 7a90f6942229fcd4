"""The engine in this process: load a model with its stages, and generate.

    engine = Engine.load(EngineConfig.from_mapping({"model": "embedded/target"}))
    for step in engine.generate(GenerateRequest("1", prompt=(5, 17), max_tokens=16)):
        print(step)

For Python users, benchmarks and tools. It needs torch and transformers, and nothing of a server.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from typing import Self

from engine.program import short_spins

os.environ.update(short_spins())  # before torch is loaded

from engine.acceleration import accelerate
from engine.code_cache import cache_root, torch_caches
from engine.config import EngineConfig, StageConfig
from engine.decoder import Decoder
from engine.drafting.build import recognised, stage_names
from engine.drafting.needs import needs_of_stages
from engine.economy import TARGET_PASS, Costs
from engine.errors import ConfigError
from engine.loading import Checkpoint
from engine.names import short_name
from engine.request import Finished, GenerateRequest, LoadProgress, ModelInfo, Output
from engine.scorer import TreeScorer
from engine.shared import Shared
from engine.threads import THREADS

OnProgress = Callable[[LoadProgress], None]


class Engine:
    """A loaded target with its stages; as many requests run at once as there are seats.

    `scorers` are whatever runs passes, by the names of `info.passes`: the target, then its stages.
    `grammars` compile constraints, which a request that comes with one is not to wait for.
    """

    def __init__(
        self, config: EngineConfig, shared: Shared, on_progress: OnProgress = lambda _: None
    ) -> None:
        self.config = config
        self.grammars = shared.grammars
        self._shared = shared
        drafter = shared.builder.build(config.stages, _teller(config, on_progress))
        economy = shared.economy(config.stages)
        self._decoder = Decoder(shared.target, drafter, economy, shared.grammars)
        shared.lend(self._decoder)
        self.scorers: dict[str, TreeScorer] = {TARGET_PASS: shared.target, **drafter.scorers()}
        self._acceleration = accelerate(config, self.scorers, shared.compiler)
        if self._acceleration.settle(lambda phase: on_progress(LoadProgress(phase, 1.0))):
            shared.forget_times()
        timing = LoadProgress("timing passes", 1.0)
        shared.time(self._decoder, config.stages, lambda: on_progress(timing))

    @classmethod
    def load(cls, config: EngineConfig, on_progress: OnProgress = lambda _: None) -> Self:
        """Load the weights and tables that `config` names, telling `on_progress` of each part.

        Raises ModelLoadError or ConfigError.
        """
        os.environ.update(torch_caches(cache_root(config.cache_dir)))
        if config.threads or config.num_engines > 1:
            share = max(1, THREADS.num_threads // config.num_engines)
            THREADS.set_num_threads(config.threads or share)
        on_progress(LoadProgress(f"loading the target {short_name(config.model)}", 0.0))
        checkpoint = Checkpoint.read(config.model)
        known = checkpoint.limits.max_positions
        if (wanted := config.max_model_len or 0) > known:
            raise ConfigError(
                f"max_model_len is {wanted}, but {config.model} knows {known} positions: set it to "
                f"{known} or less."
            )
        config = replace(config, stages=recognised(config.stages), threads=THREADS.num_threads)
        target = checkpoint.load(
            dtype=config.dtype,
            device=config.device,
            max_model_len=config.max_model_len,
            chunk=config.prefill_chunk,
            num_engines=config.num_engines,
            num_seats=config.max_running or 0,
            beside=needs_of_stages(config, checkpoint),
            lora=config.lora,
        )
        return cls(config, Shared(config, target), on_progress)

    def with_stages(self, stages: Sequence[StageConfig]) -> Self:
        """The same weights behind another list of stages. Raises EngineError while one is busy."""
        config = replace(self.config, stages=tuple(stages))
        return type(self)(config, self._shared)

    @property
    def info(self) -> ModelInfo:
        """What was loaded."""
        target = self._shared.target
        return ModelInfo(
            model=self.config.model,
            max_model_len=target.max_model_len,
            vocab_size=target.limits.vocab_size,
            eos_token_ids=target.limits.eos_token_ids,
            dtype=target.precision.name,
            device=str(target.device),
            num_parameters=target.num_parameters,
            stages=stage_names(self.config.stages),
            passes=self._acceleration.forms,
            is_compiling=self._acceleration.is_under_way,
            precision=target.precision.reason,
            precisions={name: each.precision.name for name, each in self.scorers.items()},
            num_seats=len(target.strips.seats),
            seating=target.seating,
            refusals=self._acceleration.refusals,
            fingerprint=target.fingerprint,
        )

    @property
    def costs(self) -> Costs:
        """What passes cost in greedy texts: curves are named as in `info.passes`."""
        return self._decoder.economy.costs()

    def refresh(self) -> ModelInfo:
        """Change over to what passes there are and tell how things stand.

        Nothing was compiled after it if it says that nothing is.
        """
        is_compiling = self._acceleration.is_under_way
        self.change_over()
        return replace(self.info, is_compiling=is_compiling)

    def change_over(self) -> bool:
        """Change over to passes that have become ready meanwhile; whether there were any.

        For the time between two requests. If there are some it takes seconds: they are proven
        first, and timed.
        """
        self._shared.lend(self._decoder)
        has_changed = self._acceleration.change_over()
        if has_changed:
            self._shared.forget_times()
        self._shared.time(self._decoder, self.config.stages)
        return has_changed

    @property
    def is_busy(self) -> bool:
        """Whether there is anything to do in a step."""
        return self._decoder.is_busy

    def add(self, request: GenerateRequest) -> None:
        """Let a request wait for its turn; see `Decoder.add`, and `Shared.begin`."""
        self._shared.begin(self._decoder, self.config.stages)
        self._decoder.add(request)

    def cancel(self, request_id: str) -> None:
        """End a request, which the next step tells."""
        self._decoder.cancel(request_id)

    def step(self) -> list[Output | Finished]:
        """Go on: what has come of the requests, nothing while a prompt is read."""
        return self._decoder.step()

    def generate(self, request: GenerateRequest) -> Iterator[Output | Finished]:
        """Continue a prompt, when nothing else is to be done; see `Decoder.generate`."""
        self._shared.begin(self._decoder, self.config.stages)
        yield from self._decoder.generate(request)


def _teller(config: EngineConfig, on_progress: OnProgress) -> Callable[[StageConfig], None]:
    """What tells of each stage as it is shared."""
    shares = (number / (len(config.stages) + 1) for number in count(1))

    def tell(stage: StageConfig) -> None:
        what = f"loading the stage {short_name(stage.checkpoint or stage.name)}"
        on_progress(LoadProgress(what, next(shares)))

    return tell
