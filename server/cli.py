"""The `stagetree` command."""

import logging
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler

from engine import Speculation, own_environment
from server.names import at_home
from server.options import HELP, MODEL_FLAGS, with_settings
from server.settings import Settings
from server.sources import is_debugging
from server.terminal import messages, path_option
from server.train_cli import ngram_app, train_app
from server.version import VERSION

app = typer.Typer(
    name="stagetree", no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False
)
_CHAT = "Prompts are what a user says: the model's chat template writes them out."
app.add_typer(train_app, name="train")
app.add_typer(ngram_app, name="ngram")


@app.callback()
def stagetree(context: typer.Context) -> None:
    """An OpenAI-compatible server that decodes by staged tree speculative decoding."""
    context.with_resource(own_environment())
    if is_debugging():
        _log_to_stderr("debug")


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(VERSION)


@app.command()
@with_settings(*HELP, argument="model")
def serve(settings: Settings) -> None:
    """Serve a model over HTTP; the embedded family when none is named.

    Every setting may also be an environment variable (STAGETREE_PORT=8001) or a line of the YAML
    file; flags win over the environment, and the environment over the file.
    """
    _log_to_stderr(settings.log_level)
    from server.run import run  # fastapi is slow to import, and --help needs none

    run(settings)


@app.command()
@with_settings(*MODEL_FLAGS)
def complete(
    settings: Settings,
    prompt: Annotated[str, typer.Argument(help="The text to continue.")],
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens at most.")] = 128,
    temperature: Annotated[float, typer.Option(min=0, max=100, help="0 is greedy.")] = 0.0,
    top_k: Annotated[int, typer.Option(min=0, help="0 keeps every token.")] = 0,
    top_p: Annotated[float, typer.Option(min=1e-6, max=1, help="1 keeps every token.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Random if left out.")] = None,
    speculation: Annotated[Speculation, typer.Option(help="When to grow a tree.")] = "auto",
) -> None:
    """Complete a prompt in this process; each token is coloured by the stage it came from."""
    from server.commands.complete import CompleteOptions
    from server.commands.complete import complete as run

    options = CompleteOptions(
        prompt, max_tokens, temperature, top_k, top_p, seed=seed, speculation=speculation
    )
    run(settings, options, Console(highlight=False))


@app.command()
@with_settings(*MODEL_FLAGS, "chat_template")
def chat(
    settings: Settings,
    message: Annotated[
        str | None, typer.Argument(help="Say this, and end after the answer.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="What the system says first.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a reply at most; else as the window has.")
    ] = None,
    temperature: Annotated[float, typer.Option(min=0, max=100, help="0 is greedy.")] = 0.0,
    top_k: Annotated[int, typer.Option(min=0, help="0 keeps every token.")] = 0,
    top_p: Annotated[float, typer.Option(min=1e-6, max=1, help="1 keeps every token.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Random if left out.")] = None,
    speculation: Annotated[Speculation, typer.Option(help="When to grow a tree.")] = "auto",
    thinking: Annotated[
        bool | None, typer.Option(help="Have the model reason first, where its template can.")
    ] = None,
) -> None:
    """Talk with a model in this process; each token is coloured by the stage it came from."""
    from server.commands.chat import ChatOptions
    from server.commands.chat import chat as run

    options = ChatOptions(max_tokens, temperature, top_k, top_p, seed, speculation, thinking)
    run(settings, options, Console(highlight=False), message, system)


@app.command()
@with_settings(*MODEL_FLAGS, "chat_template")
def bench(
    settings: Settings,
    prompts: Annotated[
        Path | None, path_option(help='A file of {"prompt": "..."}, one a line.')
    ] = None,
    num_prompts: Annotated[
        int | None, typer.Option(min=1, help="Only so many, of each category.")
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help=_CHAT)] = False,
    top_p: Annotated[
        float | None, typer.Option(min=1e-6, max=1, help="At T = 1, in place of a top-k of 50.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens of each reply.")] = 64,
    repetitions: Annotated[int, typer.Option(min=1, help="Rounds over all prompts.")] = 5,
    mode: Annotated[list[str] | None, typer.Option(help="Only this mode; repeatable.")] = None,
    budget: Annotated[
        list[int] | None, typer.Option(min=1, help="Draft nodes in a tree; repeatable.")
    ] = None,
    passes: Annotated[
        int | None, typer.Option(min=1, help="Draft passes in a step, for every model and head.")
    ] = None,
    warm: Annotated[int, typer.Option(min=0, help="So many more of each category teach.")] = 0,
    texts: Annotated[int, typer.Option(min=1, help="Texts written at once.")] = 1,
    beside: Annotated[
        list[str] | None, typer.Option(help="Plain decoding in this dtype, too; repeatable.")
    ] = None,
    json: Annotated[Path | None, path_option(help="Also write the figures here.")] = None,
) -> None:
    """Compare plain, chain, tree and staged decoding, interleaved, in this process.

    --budget and --passes are the sizes of all modes but `chain`, which has its own, and `auto`,
    which goes as far as it pays, up to the configuration's. Several budgets tell what each brings,
    and what of the best of them `auto` has.
    """
    from server.commands.bench import BenchOptions
    from server.commands.bench import bench as run

    options = BenchOptions(
        prompts,
        chat=chat,
        top_p=top_p,
        num_prompts=num_prompts,
        tokens=tokens,
        repetitions=repetitions,
        modes=mode or (),
        budgets=budget or (),
        passes=passes,
        warm=warm,
        texts=texts,
        beside=beside or (),
        json=json,
    )
    run(settings, options, Console(highlight=False))


@app.command()
@with_settings(*MODEL_FLAGS, "chat_template")
def doctor(
    settings: Settings,
    prompt: Annotated[str | None, typer.Option(help="A text to continue as the sample.")] = None,
    prompts: Annotated[
        Path | None, path_option(help='A file of {"prompt": "..."}, one a line.')
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help=_CHAT)] = False,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens of each reply.")] = 128,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.0,
    json: Annotated[Path | None, path_option(help="Also write the figures here.")] = None,
) -> None:
    """Measure this machine and these models, and tell what speculation makes of them, and why."""
    from server.commands.doctor import DoctorOptions
    from server.commands.doctor import doctor as run

    options = DoctorOptions(prompt, prompts, chat, tokens, temperature, json)
    run(settings, options, Console(highlight=False))


@app.command()
@with_settings("model", "dtype", "device", "threads", "chat_template", argument="model")
def fit(
    settings: Settings,
    draft: Annotated[
        list[str] | None, typer.Option(parser=at_home, help="Look at this draft; repeatable.")
    ] = None,
    prompts: Annotated[
        Path | None, path_option(help='A file of {"prompt": "..."}, one a line.')
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help=_CHAT)] = False,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens of each reply.")] = 64,
) -> None:
    """Tell which drafts fit a model, why others do not, and what each would gain here."""
    from server.commands.fit import FitOptions
    from server.commands.fit import fit as run

    run(settings, FitOptions(draft or (), prompts, chat, tokens), Console(highlight=False))


def _log_to_stderr(level: str) -> None:
    """Colours and columns for a person; whole lines for a file or a collector."""
    if messages.is_terminal:
        handler = RichHandler(console=messages, show_path=False)
        logging.basicConfig(level=level.upper(), format="%(message)s", handlers=[handler])
    else:
        logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("uvicorn").setLevel(max(logging.WARNING, logging.getLogger().level))
