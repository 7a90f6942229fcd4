"""Constraints for tiny random models, whose 64 tokens are JSON's and a few words'."""

import json
import random
from functools import cache

from engine.drafting.model import ModelDrafter
from engine.drafting.model_free import ModelFreeDrafter
from engine.drafting.sources import GrammarSource
from engine.drafting.stage import Drafter, NoStage
from engine.grammar import Grammars, Vocabulary
from engine.request import Constraint
from tests.checkpoints import VOCAB_SIZE
from tests.schemas import random_schema

EOS = 2
_WORDS = ("name", "na", "me", "age", "tag", "ab", "true", "false", "null", "price", "unit")
_PIECES = ('{"', '": ', ', "', '"}', '": "', '", "', "[]", "12", "on", "lo", "ng", "xe")
TOKENS = ("", "", "", *'{}[]",: -.0123456789abcdefgilmnoprstux', *_WORDS, *_PIECES)[:VOCAB_SIZE]


@cache
def grammars() -> Grammars:
    """Those of the one vocabulary."""
    assert len(TOKENS) == VOCAB_SIZE, len(TOKENS)
    return Grammars(lambda: Vocabulary(TOKENS, [EOS]))


def spelled(token_ids: list[int]) -> str:
    """Their text."""
    return "".join(TOKENS[token] for token in token_ids)


def schema_constraint(schema: object) -> Constraint:
    """A JSON schema."""
    return Constraint("json_schema", json.dumps(schema))


def random_constraint(rng: random.Random) -> Constraint:
    """Of any kind."""
    match rng.randrange(8):
        case 0:
            return Constraint("regex", rng.choice(["[ab]{2,9}1", "(name|na)+", "[0-9]+: [a-e]*"]))
        case 1:
            return Constraint("choice", json.dumps(rng.sample(["name", "nab", "age", "1.2"], 3)))
        case 2:
            return Constraint(
                "grammar", 'root ::= "[" item (", " item)* "]"\nitem ::= [a-e]+ | "12"'
            )
        case 3:
            content = {"type": "json_schema", "json_schema": random_schema(rng, 1)}
            tag = {"type": "tag", "begin": "{", "content": content, "end": "}"}
            form = {"type": "triggered_tags", "triggers": ["{"], "tags": [tag]}
            return Constraint("structural_tag", json.dumps({"format": form}))
    return schema_constraint(random_schema(rng))


def with_forced(drafter: Drafter) -> Drafter:
    """A list of stages as the engine builds it: with what a grammar leaves alone at its bottom."""
    if isinstance(drafter, ModelFreeDrafter):
        sources = [GrammarSource(), *drafter.sources]
        return ModelFreeDrafter(sources, drafter.budget, drafter.children)
    if isinstance(drafter, ModelDrafter):
        drafter._below = with_forced(drafter._below)
    return ModelFreeDrafter([GrammarSource()], 16, 1) if type(drafter) is NoStage else drafter
