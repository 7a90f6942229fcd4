"""Offline: texts, tokenizers, targets, and the drafters of a target, trained and measured.

`family` makes what ships, `workshop` drafters for a model of one's own. Nothing that serves a
request imports this room.
"""

import os

from engine.program import short_spins

os.environ.update(short_spins())  # before torch is loaded

from engine.training.compare import CHAIN, DrafterFigures, check_drafters
from engine.training.family import Family
from engine.training.plan import FamilyPlan, family_plan
from engine.training.recipe import LONG_LENGTHS, Lengths, Recipe
from engine.training.streams import StreamFacts
from engine.training.texts import Texts, read_prompts
from engine.training.trainer import Progress
from engine.training.workshop import Workshop, make_target

__all__ = [
    "CHAIN",
    "LONG_LENGTHS",
    "DrafterFigures",
    "Family",
    "FamilyPlan",
    "Lengths",
    "Progress",
    "Recipe",
    "StreamFacts",
    "Texts",
    "Workshop",
    "check_drafters",
    "family_plan",
    "make_target",
    "read_prompts",
]
