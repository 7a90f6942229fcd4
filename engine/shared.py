"""What was loaded and learnt for one target: all that engines over it share.

Every list of stages has an engine of its own, and one at a time writes. It then has the target,
which keeps the hidden states that its stages read, and costs that were timed as passes are run now.
"""

from collections.abc import Callable

from engine.acceleration import BackgroundCompiler
from engine.code_cache import cache_root
from engine.config import EngineConfig, StageConfig
from engine.decoder import Decoder
from engine.drafting.build import StageBuilder, layers_read
from engine.economy import Economy
from engine.errors import EngineError
from engine.grammar import Grammars, Vocabulary
from engine.model import Model
from engine.rehearsal import fit_chunk
from engine.tokenizer import load_tokenizer

Stages = tuple[StageConfig, ...]


class Shared:
    """A target, what its stages have loaded, who compiles for them, and what steps have cost."""

    def __init__(self, config: EngineConfig, target: Model) -> None:
        self.target = target
        self.builder = StageBuilder(config, target)
        self.compiler = BackgroundCompiler(cache_root(config.cache_dir) / "passes")
        self.grammars = Grammars(lambda: _vocabulary(config.model, target))
        self._economies: dict[Stages, Economy] = {}
        self._timed: set[Stages] = set()
        # For others to wait for a chunk there must be others.
        self._stall = config.prefill_stall_ms if len(target.strips.seats) > 1 else None
        self._writer: Decoder | None = None

    def economy(self, stages: Stages) -> Economy:
        """What is known of these stages, whoever has used them."""
        return self._economies.setdefault(stages, Economy())

    def lend(self, writer: Decoder) -> None:
        """Let this one write from now on. Raises EngineError while another has not ended."""
        if self._writer is not None and self._writer is not writer and self._writer.is_busy:
            raise EngineError(
                "another engine over the same weights is writing: end its requests first."
            )
        self._writer = writer
        self.target.keep_features(layers_read(writer.drafter))
        for scorer in writer.drafter.scorers().values():
            scorer.chunk = self.target.chunk

    def time(
        self, writer: Decoder, stages: Stages, announce: Callable[[], object] = lambda: None
    ) -> None:
        """Time its passes, unless they have been as they are run now; `announce` if that is due."""
        if stages not in self._timed and not writer.is_busy:
            announce()
            if self._stall is not None:
                # Once: where chunks end is not to change while prompts are remembered.
                self.target.chunk, self._stall = fit_chunk(self.target, self._stall), None
                self.lend(writer)
            writer.measure()
            self._timed.add(stages)

    def forget_times(self) -> None:
        """From now on passes are run in another way: each list of stages is to be timed anew."""
        self._timed.clear()

    def begin(self, writer: Decoder, stages: Stages) -> None:
        """Have a request of these stages come next. Raises as `lend` does."""
        self.lend(writer)
        self.time(writer, stages)


def _vocabulary(model: str, target: Model) -> Vocabulary:
    """What the target's tokens are as text. Raises ModelLoadError."""
    limits = target.limits
    return Vocabulary.of(load_tokenizer(model), limits.vocab_size, limits.eos_token_ids)
