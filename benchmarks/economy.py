"""Does `auto` find the tree that pays, and what does it lose where none does?

    python benchmarks/economy.py --prompts FILE.jsonl --text FILE.py [--json economy.json]

Losses, against plain decoding: an adversarial drafter (a table that is sure of random tokens), an
unrelated draft model (random weights, the target's vocabulary) and prompts of random tokens. Gains:
a file's second copy with some names changed, and the same with the reply left whole where it
repeats itself, which all other cases cut off. The sweep: fixed sizes, used fully at every step,
against `auto` on code at T = 0 and at T = 1, repetitive text, and with the unrelated draft. All in
pairs, interleaved, with 95 % intervals as `stagetree bench` has them. Needs torch and transformers
alone.
"""

import argparse
import json
import random
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from engine.api import Engine
from engine.benchmark import Mode, Result, Workload, compare, machine, read_prompts
from engine.config import EngineConfig, ModelStageConfig, NgramStageConfig, StageConfig
from engine.drafting.katz import KatzTable
from engine.names import resolve
from engine.request import SamplingParams
from engine.tokenizer import load_tokenizer

GREEDY, SAMPLED = SamplingParams(temperature=0.0), SamplingParams(temperature=1.0, top_k=50)
PLAIN = Mode("plain", (), "off")
SIZES = ((4, 1), (8, 1), (8, 2), (16, 2), (32, 3), (48, 6))
NGRAM_SIZES = (4, 16, 48)


@dataclass(frozen=True, slots=True)
class Case:
    """Prompts, how to sample, and the stages that `auto` may use."""

    name: str
    prompts: Sequence[tuple[int, ...]]
    sampling: SamplingParams
    stages: tuple[StageConfig, ...]
    is_swept: bool = True
    with_loops: bool = False


def fixed_modes(stages: Sequence[StageConfig]) -> Iterator[Mode]:
    """These stages at every size of the sweep, and the n-grams alone."""
    draft, ngram = stages[0], stages[-1]
    assert isinstance(draft, ModelStageConfig) and isinstance(ngram, NgramStageConfig)
    for budget, passes in SIZES:
        sized = replace(draft, budget=budget, passes=passes)
        yield Mode(f"{budget} nodes, {passes} passes", (sized, replace(ngram, budget=4)))
    for budget in NGRAM_SIZES:
        yield Mode(f"n-grams, {budget} nodes", (replace(ngram, budget=budget),))


def unrelated_draft(folder: Path, target: str) -> str:
    """A random network of the draft's shape beside the target's tokenizer; its folder."""
    config = AutoConfig.from_pretrained(resolve(target), trust_remote_code=False)
    config.hidden_size, config.intermediate_size, config.num_hidden_layers = 128, 256, 2
    config.num_attention_heads = config.num_key_value_heads = 4
    config.head_dim = 32
    AutoModelForCausalLM.from_config(config, trust_remote_code=False).save_pretrained(folder)
    return str(folder)


def table_of_lies(folder: Path, vocab_size: int) -> str:
    """An n-gram table that is sure of a random token after every token; its folder."""
    order = list(range(vocab_size))
    random.Random(0).shuffle(order)
    KatzTable.build([order] * 50, vocab_size).save(folder)
    return str(folder)


def second_copies(
    tokenizer: PreTrainedTokenizerFast, source: str, count: int, room: int
) -> list[tuple[int, ...]]:
    """Prompts that hold a passage of a file, then its beginning again with some names changed."""
    prompts = []
    for index in range(count):
        lines = source.splitlines(keepends=True)
        ids = tokenizer.encode("".join(lines[index * len(lines) // (2 * count) :]))[:room]
        first = tokenizer.decode(ids, skip_special_tokens=True)
        names = sorted(set(re.findall(r"\b[a-z_]{6,}\b", first)), key=first.count)[-3:]
        second = first
        for name in names:
            second = re.sub(rf"\b{name}\b", f"new_{name}", second)
        head = tokenizer.encode(second)[: room // 8]
        prompts.append((*ids, *tokenizer.encode("\n\n\n"), *head))
    return prompts


def cases(arguments: argparse.Namespace, engine: Engine, folder: Path) -> Iterator[Case]:
    """What is measured, one after the other."""
    tokenizer = load_tokenizer(arguments.model)
    code = read_prompts(arguments.prompts, arguments.num_prompts, arguments.model)
    dice = random.Random(0)
    vocab_size = engine.info.vocab_size
    noise = [tuple(dice.randrange(vocab_size) for _ in range(64)) for _ in code]
    copies = second_copies(
        tokenizer, arguments.text.read_text(encoding="utf-8"), len(code), arguments.copied
    )
    ngram = NgramStageConfig(table=arguments.table, budget=48)
    staged = (ModelStageConfig(arguments.draft, budget=48, passes=6), ngram)
    unrelated = (replace(staged[0], model=unrelated_draft(folder, arguments.model)), ngram)
    lies = (NgramStageConfig(table=table_of_lies(folder, vocab_size), budget=48, lookup=False),)
    yield Case("adversarial drafter", code, GREEDY, lies, is_swept=False)
    yield Case("random text", noise, GREEDY, staged, is_swept=False)
    yield Case("code, T = 0", code, GREEDY, staged)
    yield Case("code, T = 1, top-k 50", code, SAMPLED, staged)
    yield Case("a second copy", copies, GREEDY, staged)
    yield Case("repetitive text", copies, GREEDY, staged, with_loops=True)
    yield Case("unrelated draft", code, GREEDY, unrelated)


def measure(engine: Engine, case: Case, arguments: argparse.Namespace) -> list[Result]:
    """Plain, `auto` and, where they are asked for, the fixed sizes, on the prompts of a case."""
    modes = [PLAIN, Mode("auto", case.stages, "auto")]
    if case.is_swept and not arguments.no_sweep:
        modes += fixed_modes(case.stages)
    workload = Workload(case.prompts, arguments.tokens, case.sampling, with_loops=case.with_loops)
    return compare(engine, modes, workload, arguments.repetitions).results


def print_case(name: str, results: Sequence[Result]) -> None:
    """Every mode beside plain, and how far `auto` is from the best of the fixed ones."""
    print(f"\n{name}   plain {results[0].tokens_per_second:.0f} tokens/s")
    for result in results[1:]:
        print(
            f"  {result.mode:22} {result.ratio_to_plain:5.2f} "
            f"({result.ratio_low:.2f} to {result.ratio_high:.2f})   "
            f"τ {result.acceptance_length:5.2f}   {result.nodes_per_step:5.1f} nodes"
        )
    if fixed := results[2:]:
        best = max(fixed, key=lambda result: result.ratio_to_plain)
        share = results[1].ratio_to_plain / best.ratio_to_plain
        print(f"  auto has {share:.1%} of the speed of the best fixed sizes, {best.mode}")


def main() -> None:
    """Print a table for each case and, if asked, write them as JSON."""
    arguments = _parser().parse_args()
    config = EngineConfig(
        model=arguments.model, dtype=arguments.dtype, threads=arguments.threads, compile="wait"
    )
    engine = Engine.load(config)
    tables: dict[str, list[Result]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for case in cases(arguments, engine, Path(folder)):
            if arguments.cases and case.name not in arguments.cases:
                continue
            tables[case.name] = measure(engine, case, arguments)
            print_case(case.name, tables[case.name])
    if arguments.json is not None:
        rows: Mapping[str, object] = {n: [asdict(r) for r in rs] for n, rs in tables.items()}
        document = {"machine": machine(), "cases": rows}
        arguments.json.write_text(json.dumps(document, indent=2))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add: Callable[..., object] = parser.add_argument
    add("--prompts", type=Path, required=True, help='a file of {"prompt": "..."}, one a line')
    add("--text", type=Path, required=True, help="a long source file, to be written twice")
    add("--num-prompts", type=int, default=4)
    add("--copied", type=int, default=600, help="tokens of the passage that is repeated")
    add("--tokens", type=int, default=512)
    add("--repetitions", type=int, default=20)
    add("--model", default="embedded/target")
    add("--draft", default="embedded/draft")
    add("--table", default="embedded/draft2")
    add("--dtype", default="auto")
    add("--threads", type=int, default=0)
    add("--cases", nargs="+", metavar="NAME", help="these alone, such as 'code, T = 0'")
    add("--no-sweep", action="store_true", help="`auto` against plain alone")
    add("--json", type=Path, help="also write the figures here")
    return parser


if __name__ == "__main__":
    main()
