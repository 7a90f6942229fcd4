"""The economy of a tree: measured costs, calibrated acceptance, and the tree that pays best.

Things live as long as the engine, or as one step.

    economy       what all texts taught; makes the steps
    experience    of greedy texts, or of sampled ones:
    costs             milliseconds of a pass by its rows, timed at the start and as passes run
    beliefs           how often claims of each kind came true; what one more pass may find
    account           of one stage: whether it pays to ask it, and how many passes
    exploration       when something that does not pay is tried again
    record        figures that fade

    step          one step: claims, spending, and the choice of its tree
    turn          one stage's part in it
    prices        what it has spent and what more would cost
    next_pass     whether one more draft pass pays, and over which rows
    choice        how large a tree should be, and when to stop growing it
    outcome       what came of it
    trace         its tree as it was verified, for whoever asked to see that

It decides trees and nothing else: no text depends on it. It knows no model and no device.
"""

from engine.economy.beliefs import Kind
from engine.economy.choice import Choice
from engine.economy.costs import Costs, time_passes
from engine.economy.economy import Economy
from engine.economy.outcome import Outcome
from engine.economy.prices import TARGET_PASS
from engine.economy.step import Step
from engine.economy.turn import Turn

__all__ = [
    "TARGET_PASS",
    "Choice",
    "Costs",
    "Economy",
    "Kind",
    "Outcome",
    "Step",
    "Turn",
    "time_passes",
]
