"""The command: `python -m benchmarks.peers --prompts FILE.jsonl`."""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from rich.console import Console

import benchmarks.peers
from benchmarks.peers import report
from benchmarks.peers.contest import Entry, Text, contest, results
from benchmarks.peers.rows import DTYPES, OURS, PEERS, Peer, Setup, Task
from benchmarks.peers.worker import Worker, versions
from engine import ConfigError, EngineConfig
from engine.benchmark import machine
from engine.benchmark.measure import length_without_loop
from server.commands.prompts import encoded, read_prompts
from server.sources import load_settings
from server.text import Tokenizer

_DEFAULT = Path("configs/embedded.yaml")
_LONGEST_PROMPT = 2048
"""Tokens of which the end is kept, as a window would."""

_FILE_WIDTH = 120
"""Columns of what is written to a file or a pipe, where nobody's window limits it."""


def main() -> None:
    """Measure the peers that are installed, print the table and, if asked, write it as JSON."""
    arguments = parser().parse_args()
    arguments.threads = arguments.threads or torch.get_num_threads()
    torch.set_num_threads(arguments.threads)
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # of every peer's process
    try:
        config = configuration(arguments)
        prompts = _prompts(arguments, config.model)
        with ExitStack() as stack:
            _measure(arguments, config, prompts, stack)
    except (ConfigError, RuntimeError) as error:
        sys.exit(f"peers: {error}")


def _measure(
    arguments: argparse.Namespace, config: EngineConfig, prompts: Sequence[Text], stack: ExitStack
) -> None:
    window = max(map(len, prompts)) + arguments.tokens
    work = arguments.work or Path(stack.enter_context(TemporaryDirectory(prefix="peers-")))
    setup = Setup(config, arguments.threads, window, work, arguments.bits, arguments.ahead)
    workers = open_workers(chosen(arguments.peer), setup, stack)
    tasks, share_cut = _tasks(workers[0], prompts, arguments.tokens)
    entries = [Entry(worker, label) for worker in workers for label in worker.labels]
    measured = results(contest(entries, tasks, arguments.repetitions, tell))
    circumstances = report.Circumstances(
        command=command(arguments),
        machine=machine(),
        versions={name: n for worker in workers for name, n in versions(worker.peer).items()},
        model=config.model,
        num_prompts=len(tasks),
        repetitions=arguments.repetitions,
        share_cut=share_cut,
    )
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, _FILE_WIDTH)
    console.print(report.table(measured))
    console.print(report.legend(measured, circumstances), highlight=False, soft_wrap=True)
    if arguments.json is not None:
        content = report.document(measured, circumstances)
        arguments.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def chosen(names: Sequence[str]) -> list[Peer]:
    """The peers of these names that are installed, all if none is named."""
    wanted = [peer for peer in PEERS if not names or peer.name in names]
    for peer in wanted:
        if line := skip_line(peer):
            tell(line)
    return [peer for peer in wanted if skip_line(peer) is None]


def skip_line(peer: Peer) -> str | None:
    """Why a peer cannot be measured, and what would mend that; None if it can."""
    missing = [module for module in peer.modules if find_spec(module) is None]
    if not missing:
        return None
    return f"{peer.name} is skipped: no module {', '.join(missing)}: {peer.needs}"


def open_workers(peers: Sequence[Peer], setup: Setup, stack: ExitStack) -> list[Worker]:
    """A process for each of our precisions, then one for each peer that loads.

    Raises RuntimeError if one of ours does not.
    """
    workers: list[Worker] = []
    for bits in setup.bits:
        config = replace(setup.config, dtype=DTYPES[bits])
        tell(f"loading {OURS.name} in {config.dtype}")
        workers.append(stack.enter_context(Worker(OURS, replace(setup, config=config))))
    for peer in peers:
        tell(f"loading {peer.name}")
        try:
            workers.append(stack.enter_context(Worker(peer, setup)))
        except RuntimeError as error:
            tell(f"{peer.name} is left out: {error}")
    return workers


def configuration(arguments: argparse.Namespace) -> EngineConfig:
    """Ours; a model that is named without one has what `stagetree serve` gives it."""
    flags = {} if arguments.model is None else {"model": arguments.model}
    file = arguments.config or (None if flags else _DEFAULT)
    return load_settings(file, flags).command_config("wait")


def _prompts(arguments: argparse.Namespace, model: str) -> list[Text]:
    prompts = read_prompts(arguments.prompts, arguments.num_prompts)
    tokenizer = Tokenizer.load(model)
    window = _LONGEST_PROMPT + arguments.tokens
    return encoded(prompts, tokenizer, arguments.chat, None, window, arguments.tokens)


def _tasks(ours: Worker, prompts: Sequence[Text], num_tokens: int) -> tuple[list[Task], float]:
    """As much of each prompt's continuation as does not repeat itself, and the share cut off."""
    plain, *_ = ours.labels
    replies = ours.run(plain.name, [Task(prompt, num_tokens) for prompt in prompts])
    lengths = [length_without_loop(reply.tokens) for reply in replies]
    pairs = zip(prompts, lengths, strict=True)
    return [Task(*pair) for pair in pairs], 1 - sum(lengths) / (num_tokens * len(prompts))


def command(arguments: argparse.Namespace) -> str:
    """What makes these figures again, by the name of the prompts' file."""
    words = ["python", "-m", "benchmarks.peers", "--prompts", arguments.prompts.name]
    words += [word for name in arguments.peer for word in ("--peer", name)]
    words += [word for name in ("model", "config") if (word := _option(arguments, name))]
    words += ["--chat"] if arguments.chat else []
    words += ["--bits", *map(str, arguments.bits)]
    words += [
        _option(arguments, n) for n in ("num_prompts", "tokens", "repetitions", "threads", "ahead")
    ]
    return shlex.join(words)


def _option(arguments: argparse.Namespace, name: str) -> str:
    value = getattr(arguments, name)
    return "" if value is None else f"--{name.replace('_', '-')}={value}"


def tell(line: str) -> None:
    """A line about the run, which is none of its results."""
    print(f"peers: {line}", file=sys.stderr, flush=True)


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description=benchmarks.peers.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    names = [peer.name for peer in PEERS]
    add("--prompts", type=Path, required=True, help='a file of {"prompt": "..."}, one a line')
    add("--num-prompts", type=_positive, default=12, help="of each category")
    add("--tokens", type=_several, default=64, help="of each reply, 2 or more")
    add("--repetitions", type=_positive, default=7)
    add("--threads", type=int, default=0, help="of every peer; 0 leaves the number to torch")
    add("--peer", action="append", choices=names, default=[], help="only this one; repeatable")
    add("--work", type=Path, help="keep converted weights here; left out: a temporary folder")
    add("--model", help="a name as `stagetree serve` takes it; left out: the configuration's")
    add("--config", type=Path, help=f"ours; left out, and without a model: {_DEFAULT}")
    add("--chat", action="store_true", help="a prompt is what a user says")
    add("--bits", type=int, nargs="+", choices=DTYPES, default=list(DTYPES), help="of a weight")
    add("--ahead", type=_positive, default=2, help="tokens that llama.cpp drafts in a step")
    add("--json", type=Path, help="also write the figures here")
    return made


def _positive(text: str) -> int:
    return _at_least(1, text)


def _several(text: str) -> int:
    return _at_least(2, text)


def _at_least(least: int, text: str) -> int:
    number = int(text)
    if number < least:
        raise argparse.ArgumentTypeError(f"must be {least} or more, but it is {number}")
    return number


if __name__ == "__main__":
    main()
