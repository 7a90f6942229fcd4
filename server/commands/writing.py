"""What commands that write a text to the terminal share: each token is coloured by its origin."""

import time
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from engine import TARGET, Finished, GenerateRequest
from engine.api import Engine
from server.settings import Settings
from server.text import Detokenizer, Tokenizer
from server.translate.requests import Planner

_TARGET_STYLE = "default"
_STAGE_STYLES = ("green", "cyan", "magenta", "yellow", "blue")


@dataclass(frozen=True, slots=True)
class Writer:
    """An engine in this process and the terminal that its texts are printed on."""

    engine: Engine
    tokenizer: Tokenizer
    planner: Planner
    console: Console

    @classmethod
    def load(cls, settings: Settings, console: Console) -> "Writer":
        """Load the model that the settings name; raises ModelLoadError."""
        with console.status("loading") as status:
            config = settings.command_config(compile="cached")
            engine = Engine.load(config, lambda progress: status.update(progress.phase))
            tokenizer = Tokenizer.load(config.model)
        return cls(engine, tokenizer, Planner(engine.info, tokenizer, settings), console)

    def write(self, request: GenerateRequest, shown: frozenset[str] = frozenset()) -> str:
        """Print a text as it is written, then what each stage contributed; returns the text.

        Special tokens whose names are `shown` are told by these.
        """
        styles = dict(zip(self.engine.info.stages, _STAGE_STYLES, strict=False))
        detokenizer = Detokenizer(self.tokenizer, request.prompt, self.tokenizer.named(shown))
        text, num_tokens, started = "", 0, time.perf_counter()
        for item in self.engine.generate(request):
            if isinstance(item, Finished):
                text += self._print(detokenizer.flush(), _TARGET_STYLE)
                self.console.print()
                rate = num_tokens / (time.perf_counter() - started)
                self._summarise(item, styles, request.sampling.seed, rate)
                break
            for token in item.tokens:
                num_tokens += 1
                style = styles.get(token.origin, _TARGET_STYLE)
                text += self._print(detokenizer.push(token.token_id), style)
        return text

    def _print(self, text: str, style: str) -> str:
        self.console.print(Text(text, style=style), end="")
        return text

    def _summarise(
        self, finished: Finished, styles: dict[str, str], seed: int, rate: float
    ) -> None:
        stats = finished.stats
        line = Text(f"\n{rate:.0f} tokens/s, {stats.mean_acceptance_length:.2f} tokens per step, ")
        line.append(f"seed {seed}; tokens of ").append(TARGET, style=f"bold {_TARGET_STYLE}")
        for name, style in styles.items():
            stage = stats.stages.get(name)
            accepted = stage.num_accepted if stage else 0
            line.append(", ").append(name, style=f"bold {style}").append(f" ({accepted} accepted)")
        self.console.print(line)
