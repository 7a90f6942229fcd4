"""What layers that keep a state cost: passes by rows, memory, steps, several texts, going back.

    python -m benchmarks.hybrids --json hybrids.json
    python -m benchmarks.hybrids --shapes lfm2-350m --dtype float32 int8 --rounds 5

Random weights in the shapes of models that people run, behind texts of 256 tokens. `passes`:
milliseconds over our kernels, eagerly and compiled, interleaved, and what the convolutions and
recurrences take of the eager ones. `memory`: of a state, of a tree of 16 nodes, and what a state
for each of its nodes would take. `steps`: to score a tree and to accept a path of three of its
nodes. `texts`: tokens a second of so many at once, in plain decoding. `prompts`: time to the first
token and tokens that were known, of A, B and A again, half of which they have in common, and of a
chat that grows by a turn of 64 tokens and a reply of 64, ten times.

Engines compile their passes first, once for a shape and a precision: a few minutes each.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Lfm2Config, PretrainedConfig, Qwen3_5TextConfig
from transformers.utils import logging

from benchmarks.load import run
from engine.api import Engine
from engine.benchmark import machine, pass_times
from engine.config import EngineConfig
from engine.geometry import MAX_STATE_ROWS
from engine.kv_cache import kept_by
from engine.model import Model
from engine.passes import EagerRunner
from engine.recurrent import PassStates, seat_bytes
from engine.request import GenerateRequest, Output, SamplingParams
from engine.rows import Tokens
from engine.tree import TokenTree, bushy_tree

_IDS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
SHAPES: Mapping[str, PretrainedConfig] = {
    "lfm2-350m": Lfm2Config(
        hidden_size=1024,
        intermediate_size=6656,
        num_hidden_layers=16,
        num_attention_heads=16,
        num_key_value_heads=8,
        full_attn_idxs=[2, 5, 8, 10, 12, 14],
        **_IDS,
    ),
    "qwen3.5-0.8b": Qwen3_5TextConfig(
        hidden_size=1024,
        intermediate_size=3584,
        num_hidden_layers=24,
        num_attention_heads=8,
        num_key_value_heads=2,
        linear_num_value_heads=16,
        tie_word_embeddings=True,
        **_IDS,
    ),
    "tiny": Qwen3_5TextConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        linear_key_head_dim=32,
        linear_value_head_dim=32,
        tie_word_embeddings=True,
        **_IDS,
    ),
}
WIDTHS = (1, 2, 4, 8, 16, 32)
CONTEXT = 256
_ACCEPTED = 3


@contextmanager
def loaded(shape: str, dtype: str, arguments: argparse.Namespace) -> Iterator[Engine]:
    """An engine of random weights in a shape."""
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        torch.manual_seed(0)
        config = SHAPES[shape]
        network = AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, trust_remote_code=False
        )
        network.save_pretrained(folder)
        del network
        yield Engine.load(
            EngineConfig(
                folder,
                dtype=dtype,
                device=arguments.device,
                max_model_len=4096,
                max_running=max(arguments.texts),
                compile=arguments.compile,
            )
        )


def measure(engine: Engine, arguments: argparse.Namespace) -> dict[str, Any]:
    """The parts that are asked for."""
    target = engine.scorers["target"]
    assert isinstance(target, Model)
    parts: Mapping[str, Callable[[], dict[str, Any]]] = {
        "passes": lambda: passes(target, arguments.rounds),
        "memory": lambda: memory(target),
        "steps": lambda: steps(target, arguments.rounds),
        "texts": lambda: texts(engine, arguments),
        "prompts": lambda: prompts(engine),
    }
    return {name: parts[name]() for name in arguments.parts}


def passes(target: Model, num_rounds: int) -> dict[str, Any]:
    """Milliseconds by rows, in the form that passes have and eagerly; the recurrences' share."""
    fast, text = target.runner, tokens_of(CONTEXT)
    runners, eager = target._runners, EagerRunner(target.function, target._example)
    times: dict[str, dict[int, list[float]]] = {}
    for _ in range(num_rounds):
        for runner in (fast, eager):
            runners[runner.name] = runner
            for (_, width), sample in pass_times({"target": target}, text, WIDTHS).items():
                times.setdefault(runner.form, {}).setdefault(width, []).append(sample)
    shares = {width: share_of_recurrences(target, text, width) for width in WIDTHS}
    runners[fast.name] = fast
    medians = {
        form: {width: statistics.median(each) for width, each in samples.items()}
        for form, samples in times.items()
    }
    print(f"{'rows':>24}" + "".join(f"{width:>9}" for width in WIDTHS))
    for form, found in medians.items():
        print(f"{form + ', ms':>24}" + "".join(f"{each:>9.1f}" for each in found.values()))
    told = "".join(f"{share:>9.1%}" for share in shares.values())
    print(f"{'of eager: recurrences':>24}{told}", flush=True)
    return {"milliseconds": medians, "samples": times, "shares": shares}


def share_of_recurrences(target: Model, text: Sequence[int], width: int) -> float:
    """What convolutions' windows and recurrences take of an eager pass over so many rows."""
    spent = 0.0

    def timed(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            nonlocal spent
            started = time.perf_counter()
            found = method(*given)
            spent += time.perf_counter() - started
            return found

        return call

    methods = {name: getattr(PassStates, name) for name in ("windows", "recur")}
    shares = []
    try:
        for name, method in methods.items():
            setattr(PassStates, name, timed(method))
        for _ in range(3):
            alone, tree = Tokens([*text]), bushy_tree(text[-1], width)
            target.score([alone], TokenTree(text[-1]))
            target.strips.rollback()
            spent, started = 0.0, time.perf_counter()
            target.score([alone], tree)
            shares.append(spent / (time.perf_counter() - started))
            target.strips.rollback()
    finally:
        for name, method in methods.items():
            setattr(PassStates, name, method)
    return statistics.median(shares)


def memory(target: Model) -> dict[str, Any]:
    """Megabytes of what layers keep beside rows of the cache."""
    kept = kept_by(target.function.probe).states.values()
    state, row = sum(each.num_bytes for each in kept), sum(each.row_bytes for each in kept)
    found = {
        "a state": state,
        "a node's row": row,
        "16 nodes": 16 * row,
        "16 nodes, a state each": 16 * state,
        f"a seat, {MAX_STATE_ROWS} rows and copies": seat_bytes(state, row),
    }
    for name, num_bytes in found.items():
        print(f"{name:>34} {num_bytes / 1e6:>9.2f} MB", flush=True)
    return found


def steps(target: Model, num_rounds: int) -> dict[str, Any]:
    """Milliseconds to score a tree of so many nodes, and to accept a path."""
    found: dict[int, dict[str, list[float]]] = {}
    for _ in range(num_rounds):
        for num_nodes in (1, 8, 16):
            text = Tokens(tokens_of(CONTEXT))
            target.strips.forget()
            target.score([text], TokenTree(text.tokens[-1]))
            target.strips.rollback()
            tree = bushy_tree(text.tokens[-1], num_nodes)
            path = [0, *tree.path(num_nodes - 1)][:_ACCEPTED]
            started = time.perf_counter()
            target.score([text], tree)
            scored = time.perf_counter()
            target.commit([text], tree, [path])
            ended = time.perf_counter()
            each = found.setdefault(num_nodes, {"score": [], "accept": []})
            each["score"].append(1e3 * (scored - started))
            each["accept"].append(1e3 * (ended - scored))
    for num_nodes, samples in found.items():
        told = ", ".join(f"{name} {statistics.median(each):.2f}" for name, each in samples.items())
        print(f"{num_nodes:>24} nodes: {told} ms", flush=True)
    return {str(num_nodes): samples for num_nodes, samples in found.items()}


def texts(engine: Engine, arguments: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second of so many texts in plain decoding."""
    found: dict[int, list[float]] = {}
    for number in range(arguments.rounds):
        for count in arguments.texts:
            given = [tuple(tokens_of(64, seed=100 * number + each)) for each in range(count)]
            found.setdefault(count, []).append(run(engine, given, 32, "off")[0])
    for count, rates in found.items():
        print(f"{count:>24} texts: {statistics.median(rates):.1f} tokens/s", flush=True)
    return {str(count): rates for count, rates in found.items()}


def prompts(engine: Engine) -> dict[str, Any]:
    """Milliseconds to the first token, and tokens known before, of prompts that come again."""
    common = tokens_of(512, seed=1)
    both = {name: [*common, *tokens_of(512, seed=seed)] for seed, name in ((2, "A"), (3, "B"))}
    found = [(name, *first_token(engine, both[name])[:2]) for name in ("A", "B", "A")]
    chat: list[int] = []
    for turn in range(10):
        chat += tokens_of(64, seed=10 + turn)
        milliseconds, cached, reply = first_token(engine, chat)
        found.append((f"turn {turn + 1} of {len(chat)}", milliseconds, cached))
        chat += reply
    for name, milliseconds, cached in found:
        print(f"{name:>24}: first token after {milliseconds:.0f} ms, {cached} known", flush=True)
    return {"prompts": found}


def first_token(engine: Engine, prompt: Sequence[int]) -> tuple[float, int, list[int]]:
    """Milliseconds to the first token of a reply, tokens that were known before, the reply."""
    request = GenerateRequest("r", tuple(prompt), 64, SamplingParams(0.0), ignore_eos=True)
    started, milliseconds, cached = time.perf_counter(), 0.0, 0
    reply: list[int] = []
    for event in engine.generate(request):
        if isinstance(event, Output):
            if not reply:
                milliseconds = 1e3 * (time.perf_counter() - started)
                cached = event.num_cached_tokens or 0
            reply += [token.token_id for token in event.tokens]
    return milliseconds, cached, reply


def tokens_of(length: int, seed: int = 0) -> list[int]:
    """A text that means nothing."""
    rng = random.Random(seed)
    return [rng.randrange(3, 500) for _ in range(length)]


def main() -> None:
    """Print what is measured, and keep it if a file is named."""
    arguments = _parse()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    document: dict[str, Any] = {"machine": machine(), "engines": {}}
    print(machine(), flush=True)
    for shape in arguments.shapes:
        for dtype in arguments.dtype:
            started = time.monotonic()
            with loaded(shape, dtype, arguments) as engine:
                size, told = engine.info.num_parameters / 1e6, engine.info.passes
                seconds = time.monotonic() - started
                print(f"\n{shape}, {dtype}: {size:.0f}M, {told}, ready in {seconds:.0f} s")
                print("".join(f"{why}\n" for why in engine.info.refusals.values()), flush=True)
                document["engines"][f"{shape} {dtype}"] = measure(engine, arguments)
            if arguments.json:
                arguments.json.write_text(json.dumps(document, indent=2) + "\n")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parts = ("passes", "memory", "steps", "texts", "prompts")
    add = parser.add_argument
    add("--shapes", nargs="+", choices=SHAPES, default=["lfm2-350m", "qwen3.5-0.8b"])
    add("--dtype", nargs="+", default=["float32", "bfloat16"])
    add("--parts", nargs="+", choices=parts, default=parts)
    add("--texts", nargs="+", type=int, default=[1, 2, 4])
    add("--rounds", type=int, default=5)
    add("--device", default="auto")
    add("--compile", choices=("wait", "cached", "never"), default="wait")
    add("--folder", type=Path, help="where weights lie meanwhile, 1.5 GB at the most")
    add("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
