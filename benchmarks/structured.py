"""What a form costs a step, and what the tokens that it leaves alone bring: one model, in turns.

    python -m benchmarks.structured smollm2

Greedy replies under a schema whose names are long: decoded plainly without a form, plainly under
it, and with what is certain drafted. The order of the three changes from round to round; figures
are medians over the rounds, with the least and the most.
"""

import argparse
import json
import statistics
import time
from dataclasses import replace

from engine.api import Engine
from engine.config import EngineConfig
from engine.request import Constraint, GenerateRequest, Output, SamplingParams
from engine.tokenizer import load_tokenizer

PROPERTIES = {
    "customer_name": {"type": "string", "maxLength": 24},
    "is_existing_customer": {"type": "boolean"},
    "preferred_language": {"enum": ["English", "French", "German"]},
    "number_of_open_invoices": {"type": "integer", "minimum": 0, "maximum": 999},
    "requires_personal_follow_up": {"type": "boolean"},
    "overall_satisfaction_rating": {"enum": ["satisfied", "indifferent", "dissatisfied"]},
}
SCHEMA = {"type": "object", "properties": PROPERTIES, "required": [*PROPERTIES]}
PROMPT = (
    "Anna Berger, a customer since 2009, wrote in German that two of her invoices are still open "
    "and that nobody has called her back. She is angry. The record of the call, as JSON:\n"
)
_NUM_TOKENS = 96


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    engine = Engine.load(EngineConfig(asked.model))
    prompt = tuple(load_tokenizer(asked.model).encode(PROMPT))
    form = Constraint("json_schema", json.dumps(SCHEMA))
    started = time.perf_counter()
    engine.grammars.compiled(form)
    print(f"compiled in {time.perf_counter() - started:.2f} s, the tokenizer read")
    plain = GenerateRequest("plain", prompt, _NUM_TOKENS, SamplingParams(0.0), speculation="off")
    kinds = {
        "plain, no form": replace(plain, ignore_eos=True),
        "plain, the form": replace(plain, constraint=form),
        "what is certain drafted": replace(plain, constraint=form, speculation="auto"),
    }
    figures: dict[str, list[tuple[float, float, float]]] = {name: [] for name in kinds}
    texts: dict[str, list[int]] = {}
    for number in range(asked.rounds + 1):
        order = [*kinds][number % 3 :] + [*kinds][: number % 3]
        for name in order:
            ids, measured = _run(engine, kinds[name])
            assert texts.setdefault(name, ids) == ids
            if number:  # the first round reads the prompt
                figures[name].append(measured)
    assert texts["plain, the form"] == texts["what is certain drafted"]
    print("| | tokens/step | ms/step | tokens/s |\n|---|--:|--:|--:|")
    for name, rows in figures.items():
        columns = [_told(column) for column in zip(*rows, strict=True)]
        print(f"| {name} | {' | '.join(columns)} |")


def _run(engine: Engine, request: GenerateRequest) -> tuple[list[int], tuple[float, float, float]]:
    """A reply, and its tokens a step, milliseconds a step and tokens a second after the first."""
    ids, ends = list[int](), list[float]()
    for event in engine.generate(request):
        if isinstance(event, Output):
            ends.append(time.perf_counter())
            ids += [token.token_id for token in event.tokens]
    seconds, num_steps = ends[-1] - ends[0], len(ends) - 1
    num_tokens = len(ids) - 1
    return ids, (num_tokens / num_steps, 1e3 * seconds / num_steps, num_tokens / seconds)


def _told(column: tuple[float, ...]) -> str:
    return f"{statistics.median(column):.2f} ({min(column):.2f}–{max(column):.2f})"


if __name__ == "__main__":
    main()
