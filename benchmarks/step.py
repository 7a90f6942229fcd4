"""Where the time of one step goes: plain decoding and staged trees, phase by phase.

    python benchmarks/step.py --json step.json
    python benchmarks/step.py --shapes 8B --trees 32/4 --compile wait

`family` is the embedded family with its target grown to 762M (`engine.benchmark.grown`), whose
drafts are accepted as at 14M; the other shapes are Llamas of random weights over a smaller one as
their draft: nobody accepts anything there, and what a step costs is all that they tell. A staged
step is worth its cost if it emits as many tokens as it takes plain steps: `break-even`.

Phases are the engine's own clock: stages, the target's pass with the choice of tokens, and the
rest, which is the host's. Then a few steps run under torch's profiler: how long the device is at
work in a step, and on what. It needs torch and transformers alone.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.utils import logging

from engine.api import Engine
from engine.benchmark import SIZES, LlamaShape, grown, machine
from engine.config import Compile, EngineConfig, ModelStageConfig, NgramStageConfig
from engine.loading import choose_device, choose_precision, random_model
from engine.request import GenerateRequest, Output, SamplingParams, Speculation
from engine.shared import Shared
from engine.weights import bytes_read

LLAMAS: Mapping[str, tuple[int, int, int, int]] = {
    "0.1B": (768, 2304, 6, 12),
    "1B": (2048, 8192, 16, 32),
    "8B": (4096, 14336, 32, 32),
    "tiny": (64, 128, 2, 4),
}
"""Width, units, layers and heads."""

DRAFTS = {"1B": "0.1B", "8B": "1B", "tiny": "tiny"}
FAMILY = "family"
VOCAB_SIZE = 128_256
MODES: Mapping[str, Speculation] = {"plain": "off", "staged": "always", "auto": "auto"}
PROFILED = ("plain", "staged")
FIELDS = ("step ms", "stages", "target", "rest", "nodes", "tokens", "tokens/s")
_TOP = 14
_WINDOW = 1024


@dataclass(frozen=True, slots=True)
class Phases:
    """Medians of a mode's steps in milliseconds, and what a step emitted."""

    step: float
    stages: float
    target: float
    rest: float
    nodes: float
    tokens: float
    tokens_per_second: float


@dataclass(frozen=True, slots=True)
class Kernel:
    """What one kernel did in a step."""

    name: str
    launches: float
    milliseconds: float


@dataclass(frozen=True, slots=True)
class Work:
    """What the device did in a step: how long it was at work, in how many kernels, in which."""

    milliseconds: float
    launches: float
    kernels: tuple[Kernel, ...]


def main() -> None:
    """Print a table and a profile for each shape; write all figures if asked to."""
    arguments = parse()
    logging.disable_progress_bar()
    print(machine(), flush=True)
    document: dict[str, Any] = {"machine": machine(), "shapes": {}}
    for name in arguments.shapes:
        started = time.monotonic()
        with loaded(name, arguments) as engine:
            seconds = time.monotonic() - started
            document["shapes"][name] = {"seconds_to_load": seconds, **measure(engine, arguments)}
        report(name, document["shapes"][name])
        if arguments.json:
            arguments.json.write_text(json.dumps(document, indent=2, default=asdict) + "\n")


@contextmanager
def loaded(name: str, arguments: argparse.Namespace) -> Iterator[Engine]:
    """An engine of that shape behind a draft and n-grams."""
    budget, _, passes = arguments.trees.partition("/")
    sizes = {"budget": int(budget), "passes": int(passes)}
    common = {
        "dtype": arguments.dtype,
        "device": arguments.device,
        "max_model_len": _WINDOW,
        "compile": arguments.compile,
    }
    if name == FAMILY:
        size: LlamaShape | None = SIZES[762] if arguments.grow else None
        with grown("embedded/target", size) as folder:
            stages = (
                ModelStageConfig("embedded/draft", **sizes),
                NgramStageConfig(table="embedded/draft2"),
            )
            yield Engine.load(EngineConfig(folder, stages, **common))
        return
    device = choose_device(arguments.device)
    config = llama(name)
    with tempfile.TemporaryDirectory() as folder:
        save_random(
            DRAFTS[name], Path(folder), choose_precision(arguments.dtype, device, config).dtype
        )
        stages = (ModelStageConfig(folder, **sizes), NgramStageConfig())
        given = EngineConfig(name, stages, **common)
        target = random_model(
            config,
            dtype=given.dtype,
            device=given.device,
            max_model_len=_WINDOW,
            chunk=given.prefill_chunk,
        )
        yield Engine(given, Shared(given, target))


def llama(name: str) -> LlamaConfig:
    """A Llama of that name."""
    width, units, layers, heads = LLAMAS[name]
    return LlamaConfig(
        vocab_size=VOCAB_SIZE if width > 64 else 512,
        hidden_size=width,
        intermediate_size=units,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 4,
        max_position_embeddings=2 * _WINDOW,
        tie_word_embeddings=width < 4096,
        bos_token_id=None,
        eos_token_id=None,
    )


def save_random(name: str, folder: Path, dtype: torch.dtype) -> None:
    """A checkpoint of random weights."""
    torch.manual_seed(1)
    shape = llama(name)
    AutoModelForCausalLM.from_config(shape, dtype=dtype, trust_remote_code=False).save_pretrained(
        folder
    )


def measure(engine: Engine, arguments: argparse.Namespace) -> dict[str, Any]:
    """Phases of every mode, interleaved, and profiles of some."""
    steps: dict[str, list[Output]] = {mode: [] for mode in MODES}
    for number in range(arguments.rounds + 1):
        for mode in MODES:
            ran = list(run(engine, MODES[mode], number, arguments))
            if number:  # the first round warms up
                steps[mode] += ran
    return {
        "passes": engine.info.passes,
        "dtype": engine.info.dtype,
        "num_parameters": engine.info.num_parameters,
        "weight_bytes": {
            name: bytes_read(scorer.network) for name, scorer in engine.scorers.items()
        },
        "phases": {mode: phases(steps[mode]) for mode in MODES},
        "work": {mode: profiled(engine, MODES[mode], arguments) for mode in PROFILED},
    }


def run(
    engine: Engine, speculation: Speculation, number: int, arguments: argparse.Namespace
) -> Iterator[Output]:
    """The steps of one reply after its first, which reads the prompt before this returns."""
    size = min(engine.info.vocab_size, 8000)
    prompt = tuple((number + 37 * i * i) % size for i in range(arguments.prompt))
    request = GenerateRequest(
        "r",
        prompt,
        arguments.tokens,
        SamplingParams(arguments.temperature, top_k=50, seed=number),
        speculation=speculation,
        ignore_eos=True,
    )
    items = engine.generate(request)
    next(items)
    return (item for item in items if isinstance(item, Output))


def phases(steps: Sequence[Output]) -> Phases:
    """Medians over some steps."""
    stats = [step.stats for step in steps]
    drafting = [sum(stage.milliseconds for stage in each.stages) for each in stats]
    total = sum(each.milliseconds for each in stats)
    return Phases(
        step=statistics.median(each.milliseconds for each in stats),
        stages=statistics.median(drafting),
        target=statistics.median(each.target_milliseconds for each in stats),
        rest=statistics.median(
            each.milliseconds - each.target_milliseconds - spent
            for each, spent in zip(stats, drafting, strict=True)
        ),
        nodes=statistics.mean(each.num_nodes for each in stats),
        tokens=statistics.mean(len(step.tokens) for step in steps),
        tokens_per_second=1e3 * sum(len(step.tokens) for step in steps) / total,
    )


def profiled(engine: Engine, speculation: Speculation, arguments: argparse.Namespace) -> Work:
    """What the device, or a CPU, does in a step."""
    is_gpu = engine.info.device.startswith("cuda")
    kind = DeviceType.CUDA if is_gpu else DeviceType.CPU
    activities = [ProfilerActivity.CUDA] if is_gpu else [ProfilerActivity.CPU]
    steps = run(engine, speculation, 0, arguments)
    with profile(activities=activities, acc_events=True) as profiler:
        num_steps = len(list(steps))
    totals = [each for each in profiler.key_averages() if each.device_type == kind]
    spent = {
        each.key: (each.self_device_time_total if is_gpu else each.self_cpu_time_total)
        for each in totals
    }
    kernels = [
        Kernel(each.key, each.count / num_steps, spent[each.key] / num_steps / 1e3)
        for each in totals
    ]
    kernels.sort(key=lambda kernel: -kernel.milliseconds)
    return Work(
        sum(kernel.milliseconds for kernel in kernels),
        sum(kernel.launches for kernel in kernels),
        tuple(kernels[:_TOP]),
    )


def report(name: str, shape: Mapping[str, Any]) -> None:
    """Print a shape's tables."""
    size, loading = shape["num_parameters"] / 1e6, shape["seconds_to_load"]
    print(f"\n{name}: {size:,.0f}M, {shape['dtype']}, {shape['passes']}, ready in {loading:.1f} s")
    print(f"{'':>8}" + "".join(f"{field:>11}" for field in FIELDS) + "  break-even")
    plain = shape["phases"]["plain"].step
    for mode, each in shape["phases"].items():
        cells = "".join(f"{value:>11.3f}" for value in asdict(each).values())
        print(f"{mode:>8}{cells}  {each.step / plain:.2f}")
    for mode, work in shape["work"].items():
        print(
            f"{mode}, by the profiler: {work.milliseconds:.3f} ms at work a step in "
            f"{work.launches:.0f} kernels"
        )
        for kernel in work.kernels:
            print(f"{kernel.milliseconds:>10.4f} ms {kernel.launches:>7.1f}  {kernel.name[:90]}")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, or `arguments`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--shapes", nargs="+", choices=[FAMILY, *DRAFTS], default=[FAMILY, "1B", "8B"])
    add("--no-grow", dest="grow", action="store_false", help="the family at its own size")
    add("--device", default="auto")
    add("--dtype", default="auto")
    add("--compile", choices=get_args(Compile), default="background")
    add("--trees", default="32/4", metavar="NODES/PASSES", help="draft nodes and passes of a step")
    add("--prompt", type=int, default=256, help="tokens before the first step")
    add("--tokens", type=int, default=64, help="of each reply")
    add("--temperature", type=float, default=0.0)
    add("--rounds", type=int, default=3)
    add("--json", type=Path)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
