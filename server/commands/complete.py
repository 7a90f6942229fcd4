"""`stagetree complete`: one completion in this process, each token coloured by its origin."""

from dataclasses import asdict, dataclass

from rich.console import Console
from rich.text import Text

from engine import Speculation
from server.commands.writing import Writer
from server.protocol import CompletionRequest
from server.settings import Settings
from server.translate.completions import plan_completion


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
    writer = Writer.load(settings, console)
    # As a server would ask for it.
    body = CompletionRequest(**asdict(options))
    request = plan_completion(body, "complete", writer.planner).sequences[0]
    console.print(Text(options.prompt, style="dim"), end="")
    writer.write(request)
