"""`stagetree complete`: one completion in this process, each token coloured by its origin."""

import time
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.text import Text

from engine import TARGET, Finished, GenerateRequest, Speculation
from engine.api import Engine
from server.protocol import CompletionRequest
from server.settings import Settings
from server.text import Detokenizer, Tokenizer
from server.translate.completions import plan_completion
from server.translate.requests import Planner

_TARGET_STYLE = "default"
_STAGE_STYLES = ("green", "cyan", "magenta", "yellow", "blue")


@dataclass(frozen=True, slots=True)
class CompleteOptions:
    """What is asked for on the command line; `seed` None is a random one."""

    prompt: str
    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    seed: int | None
    speculation: Speculation


def complete(settings: Settings, options: CompleteOptions, console: Console) -> None:
    """Print the prompt and its continuation as it is written, then what each stage contributed."""
    with console.status("loading") as status:
        config = settings.command_config(compile="cached")
        engine = Engine.load(config, lambda progress: status.update(progress.phase))
        tokenizer = Tokenizer.load(config.model)
    request = _request(Planner(engine.info, tokenizer, settings), options)
    styles = dict(zip(engine.info.stages, _STAGE_STYLES, strict=False))
    detokenizer = Detokenizer(tokenizer, request.prompt)
    num_tokens, started = 0, time.perf_counter()
    console.print(Text(options.prompt, style="dim"), end="")
    for item in engine.generate(request):
        if isinstance(item, Finished):
            console.print(Text(detokenizer.flush()))
            seconds = time.perf_counter() - started
            _summarise(console, item, styles, request.sampling.seed, num_tokens / seconds)
            return
        for token in item.tokens:
            num_tokens += 1
            style = styles.get(token.origin, _TARGET_STYLE)
            console.print(Text(detokenizer.push(token.token_id), style=style), end="")


def _request(planner: Planner, options: CompleteOptions) -> GenerateRequest:
    """As a server would ask for it."""
    body = CompletionRequest(**asdict(options))
    return plan_completion(body, "complete", planner).sequences[0]


def _summarise(
    console: Console, finished: Finished, styles: dict[str, str], seed: int, rate: float
) -> None:
    stats = finished.stats
    line = Text(f"\n{rate:.0f} tokens/s, {stats.mean_acceptance_length:.2f} tokens per step, ")
    line.append(f"seed {seed}; tokens of ").append(TARGET, style=f"bold {_TARGET_STYLE}")
    for name, style in styles.items():
        stage = stats.stages.get(name)
        accepted = stage.num_accepted if stage else 0
        line.append(", ").append(name, style=f"bold {style}").append(f" ({accepted} accepted)")
    console.print(line)
