"""The command: `python -m benchmarks.paper --folder FOLDER`."""

import argparse
import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_args

import torch

import benchmarks.paper
from benchmarks.paper import report
from benchmarks.paper.contest import Contest, Prompts, config_of
from benchmarks.paper.engines import Loaded, measure_shape, window_of
from benchmarks.paper.family import TOKENIZER, Family
from benchmarks.paper.figures import Figures, Scales, figures_of
from benchmarks.paper.plan import FULL, SMOKE, Plan
from benchmarks.paper.store import claim
from engine.benchmark import SAMPLINGS, machine, measured_bandwidth, read_prompts, rounding
from engine.config import Compile, Dtype
from engine.errors import ConfigError
from engine.loading import choose_device
from engine.training.texts import read_prompts as read_texts

RESULTS = Path(__file__).parent.parent / "results"
ABOUT = (
    "Acceptance of a target of {small:,.1f}M trained here, cost of the {large:,.1f}M to which it "
    "is grown without changing its outputs"
)


def main() -> None:
    """Make what is missing, measure what is missing, write the table."""
    arguments = parser().parse_args()
    started = time.monotonic()
    is_gpu = choose_device("auto").type == "cuda"
    if not (is_gpu or arguments.smoke):
        sys.exit("paper: this takes a GPU of 24 GB or more; --smoke rehearses it on any machine.")
    dtype: Dtype = "bfloat16" if is_gpu else "float32"
    arguments.compile = arguments.compile or ("never" if arguments.smoke else "wait")
    if arguments.smoke:  # tiny models are slower on several threads, most of all beside others
        torch.set_num_threads(1)

    def say(line: str) -> None:
        print(f"paper: {time.monotonic() - started:6.1f} s  {line}", file=sys.stderr, flush=True)

    try:
        run = _Run(arguments, dtype, say)
        run.family.make()
        document = run.measure(started + 60 * arguments.minutes)
    except ConfigError as error:
        sys.exit(f"paper: {error}")
    except KeyboardInterrupt:
        sys.exit("paper: stopped; the same command goes on from here")
    out = arguments.out or (arguments.folder if arguments.smoke else RESULTS)
    as_text, as_json = report.write(document, out)
    print(as_text.read_text(encoding="utf-8"))
    say(f"{as_text} and {as_json.name} are written")


class _Run:
    """One run of the command in its folder."""

    def __init__(
        self, arguments: argparse.Namespace, dtype: Dtype, say: Callable[[str], None]
    ) -> None:
        self._arguments = arguments
        self._dtype = dtype
        self._say = say
        self._plan = plan_of(arguments)
        texts = tuple(read_texts(arguments.prompts)) if arguments.prompts else ()
        folder = arguments.folder.resolve()
        claim(folder / "settings.json", _settings(self._plan, texts))
        minutes = arguments.minutes
        self.family = Family(self._plan, folder, texts, minutes, say)
        self._measured = folder / "measured"
        self._machine = {**machine(), **_versions()}
        claim(self._measured / "machine.json", self._machine)

    def measure(self, deadline: float) -> Figures:
        """Everything that is not measured yet, as a document."""
        shapes = {name: self._shape(name) for name in self._plan.shapes}
        prompts = self._prompts()
        window = window_of(self._plan, max(map(len, prompts)))
        compile: Compile = self._arguments.compile
        config, head = config_of(self._plan, self.family.path, window, self._dtype, compile)
        self._say("loading the family")
        loaded = Loaded.of(config)
        device = loaded.engine.info.device
        bandwidth = measured_bandwidth(device)
        differences = rounding(loaded.target, prompts)
        self._say("timing passes")
        context, rounds = self._plan.context, self._plan.rounds
        passes = loaded.passes(loaded.engine.config.stages, context, rounds, bandwidth)
        passes["head"] = loaded.passes((head,), context, rounds, bandwidth)["head"]
        contest = Contest(self._plan, loaded, head, self._measured, self._say)
        contest.measure(prompts, deadline)
        bandwidth = max(bandwidth, measured_bandwidth(device))
        weight_bytes = {name: each["weight_bytes"] for name, each in passes.items()}
        scales = Scales(weight_bytes, bandwidth, max(differences))
        trained = self.family.facts["target"]["num_parameters"]
        num_parameters = {"small": trained / 1e6, "large": loaded.target.num_parameters / 1e6}
        document = {
            "about": ABOUT.format(**num_parameters),
            "command": _command(self._arguments),
            "machine": self._machine,
            "versions": ["python", "transformers", "torch", *_versions()],
            "dtype": loaded.engine.info.dtype,
            "bytes_per_second": bandwidth,
            "prompts": self._arguments.prompts.name if self._arguments.prompts else "held out",
            "settings": {field.name: getattr(self._plan, field.name) for field in fields(Plan)}
            | {"sources": None, "shapes": None, "shares": dict(self._plan.shares)},
            "family": self.family.facts,
            "rounding": {"median": statistics.median(differences), "worst": max(differences)},
            "passes": passes,
            "left_out": contest.left_out,
            "temperatures": [_at(contest, sampling, prompts, scales) for sampling in SAMPLINGS],
            "shapes": shapes,
        }
        # As JSON has it: numbers of rows are texts.
        return dict(json.loads(json.dumps(document, default=asdict)))

    def _shape(self, name: str) -> Figures:
        """The cost of an untrained shape, from the file of an earlier run if there is one."""
        file = self._measured / f"shape-{name}.json"
        if not file.exists():
            self._say(f"an untrained {name}")
            figures = measure_shape(self._plan, name, self._dtype, self._arguments.compile)
            file.write_text(json.dumps(figures, indent=2))
        return dict(json.loads(file.read_text()))

    def _prompts(self) -> Prompts:
        if self._arguments.prompts is None:
            return self.family.held_out(self._plan.num_prompts, self._plan.prompt_length)
        return read_prompts(self._arguments.prompts, self._plan.num_prompts, TOKENIZER)


def _at(contest: Contest, sampling: Any, prompts: Prompts, scales: Scales) -> Figures:
    passages, share_cut = contest.passages(sampling, prompts)
    return {
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "num_tokens": sum(len(passage.text) for passage in passages),
        "share_cut": share_cut,
        "rows": figures_of(contest.runs, passages, scales),
    }


def plan_of(arguments: argparse.Namespace) -> Plan:
    """The sizes that were asked for, and what overrides them."""
    plan = SMOKE if arguments.smoke else FULL
    names = ("num_prompts", "num_tokens", "repetitions", "trees")
    given = {name: getattr(arguments, name) for name in names}
    return replace(plan, **{name: value for name, value in given.items() if value is not None})


def _settings(plan: Plan, texts: tuple[str, ...]) -> dict[str, Any]:
    """What a folder cannot change any more."""
    kept = {"repetitions": None, "shares": None}
    return {**asdict(plan), **kept, "prompts": texts}


def _versions() -> dict[str, str]:
    found = {"cuda": torch.version.cuda or "none"}
    try:
        return {**found, "triton": version("triton")}
    except PackageNotFoundError:
        return found


def _command(arguments: argparse.Namespace) -> str:
    """What makes this table again, without the names of this machine's folders."""
    words = ["python", "-m", "benchmarks.paper", "--folder", "FOLDER"]
    words += ["--smoke"] if arguments.smoke else ["--minutes", f"{arguments.minutes:g}"]
    for name in ("num_prompts", "num_tokens", "repetitions"):
        if (value := getattr(arguments, name)) is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    if arguments.trees:
        words += ["--trees", "{}/{}".format(*arguments.trees)]
    if arguments.prompts:
        words += ["--prompts", arguments.prompts.name]
    return shlex.join(words)


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.paper",
        description=benchmarks.paper.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--folder", type=Path, required=True, help="models and runs; what is there is kept")
    add("--out", type=Path, help="for the table and its JSON; left out: benchmarks/results")
    add("--minutes", type=float, default=10.0, help="for all of it; trainings take shares of them")
    add("--smoke", action="store_true", help="tiny shapes: a rehearsal, whose speeds say nothing")
    add("--prompts", type=Path, help='{"prompt": "..."} a line; left out: files held out')
    add("--num-prompts", type=int)
    add("--num-tokens", type=int, help="of each reply")
    add("--repetitions", type=int)
    add("--trees", type=_trees, metavar="NODES/PASSES", help="draft nodes and passes of a step")
    add("--compile", choices=get_args(Compile), help="as in a configuration; wait, if left out")
    return made


def _trees(text: str) -> tuple[int, int]:
    nodes, _, passes = text.partition("/")
    return int(nodes), int(passes)


if __name__ == "__main__":
    main()
