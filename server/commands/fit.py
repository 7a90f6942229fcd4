"""`stagetree fit`: which drafts fit a model, why others do not, and what each would gain here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from engine import (
    CHECKED,
    TARGET,
    EngineConfig,
    HeadStageConfig,
    ModelStageConfig,
    NgramStageConfig,
    PublicDraft,
    SamplingParams,
    public_drafts,
)
from engine.api import Engine
from engine.benchmark import (
    PLAIN,
    Fit,
    Mode,
    Result,
    Workload,
    break_even,
    compare,
    fit_of,
    gain_of,
)
from server.commands.prompts import Prompt, encoded, read_prompts
from server.commands.samples import CHAT, CODE
from server.settings import Settings
from server.text import Tokenizer

LOOKUP = "look-up alone"
_REPETITIONS = 3
_FILE_WIDTH = 100
_ACCEPTANCES = (0.6, 0.8)
_HEAD_SHARE = 0.1
"""Of the target's pass: about what a head's one layer and output matrix cost."""


@dataclass(frozen=True, slots=True)
class FitOptions:
    """What is asked for on the command line: drafts to look at, and a sample as doctor takes it."""

    drafts: Sequence[str] = ()
    prompts: Path | None = None
    chat: bool = False
    tokens: int = 64


def fit(settings: Settings, options: FitOptions, console: Console) -> None:
    """Print what fits the model, and what it gains on this machine.

    Raises ConfigError for options that do not fit one another or the model.
    """
    if not console.is_terminal:
        console.width = max(console.width, _FILE_WIDTH)
    prompts: Sequence[Prompt] = CHAT if options.chat else CODE
    if options.prompts is not None:
        prompts = read_prompts(options.prompts)
    # Its own stages are those that need no training; what is named besides is looked at by itself.
    config = replace(settings.command_config(compile="wait"), stages=(NgramStageConfig(),))
    found = [fit_of(draft, config.model) for draft in options.drafts]
    for each in found:
        console.print(_verdict(each), soft_wrap=True)
    with console.status("loading"):
        engine = Engine.load(config)
    ids = encoded(
        prompts,
        Tokenizer.load(config.model),
        options.chat,
        settings.chat_template,
        engine.info.max_model_len,
        options.tokens,
    )
    workload = Workload(ids, options.tokens, SamplingParams(0.0), engine.info.eos_token_ids)
    results = _measured(engine, config, [each for each in found if each.fits], workload)
    console.print(_measured_table(results))
    console.print(f"chosen: {_choice(results)}\n", soft_wrap=True)
    _print_public(config.model, options.drafts, engine.costs.curve(TARGET), console)


def _verdict(found: Fit) -> str:
    reasons = "; ".join(found.reasons).rstrip(".")
    if not found.was_read:
        return f"{found.draft} could not be looked up: {reasons}."
    return f"{found.draft} {f'does not fit: {reasons}' if reasons else 'fits'}."


def _measured(
    engine: Engine, config: EngineConfig, drafts: Sequence[Fit], workload: Workload
) -> list[Result]:
    """Plain decoding, the look-up alone, and each draft above it, as `auto` uses them."""
    kinds = {"head": HeadStageConfig, "model": ModelStageConfig}
    modes = [Mode(PLAIN, (), "off"), Mode(LOOKUP, config.stages, "auto")]
    modes += [Mode(d.draft, (kinds[d.kind](d.draft), *config.stages), "auto") for d in drafts]
    return compare(engine, modes, workload, _REPETITIONS).results


def _measured_table(results: Sequence[Result]) -> Table:
    table = _table("on a sample at T = 0", "draft", "tokens/s", "x plain", "95 %", "predicted", "τ")
    for result in results:
        table.add_row(
            result.mode,
            f"{result.tokens_per_second:.0f}",
            f"{result.ratio_to_plain:.2f}",
            f"{result.ratio_low:.2f}–{result.ratio_high:.2f}",
            f"{result.predicted_tokens_per_second:.0f}",
            f"{result.acceptance_length:.2f}",
        )
    return table


def _choice(results: Sequence[Result]) -> str:
    """What is fastest, and how to have it."""
    best = max(results, key=lambda result: result.tokens_per_second)
    if best.mode == PLAIN:
        return "plain decoding: nothing gained on this sample (stages: [] in the configuration)"
    how = "no --draft" if best.mode == LOOKUP else f"--draft {best.mode}"
    return f"{best.mode}, {best.ratio_to_plain:.2f} times as fast as plain decoding ({how})"


def _print_public(
    model: str, looked_at: Sequence[str], pass_ms: Callable[[int], float], console: Console
) -> None:
    """What others have published for a model of this name, and when it would pay here."""
    known = [each for each in public_drafts(model) if each.name not in looked_at]
    if not known:
        console.print(f"No other public draft is known for {model} ({CHECKED}).", soft_wrap=True)
        return
    headings = (f"if {share:.0%} are accepted" for share in _ACCEPTANCES)
    table = _table(f"public, as of {CHECKED}", "draft", "kind", "pays from", *headings)
    for each in known:
        table.add_row(*_public_row(each, pass_ms))
    console.print(table)
    note = (
        "None of these was looked up: name one as --draft to compare its files with the target's, "
        "and to measure it. Predicted from this machine's pass costs: a sibling's by its share of "
        f"the weights, a head's as {_HEAD_SHARE:.0%} of the target's; the best chain is taken."
    )
    console.print(Padding(note, (0, 0, 1, 0)))


def _public_row(draft: PublicDraft, pass_ms: Callable[[int], float]) -> tuple[str, ...]:
    share = draft.share or _HEAD_SHARE
    least = break_even(pass_ms, share)
    pays = "never" if least is None else f"{least:.0%}"
    gains = (f"{gain_of(pass_ms, share, accepted).ratio:.2f} x" for accepted in _ACCEPTANCES)
    return (draft.name, draft.kind, pays, *gains)


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1), pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "draft" else "right", no_wrap=True)
    return table
