"""The economy of a tree: measured costs, calibrated acceptance, and the tree that pays best.

    costs         milliseconds of a pass by its rows, timed at the start and as passes run
    calibration   how often claims of each kind came true
    outlook       what one more draft pass is likely to find
    passes        how many passes to run on a device, where nobody can look between them
    trials        when a drafter that does not pay is tried again
    habit         whether it pays to ask at all
    guesses       the n-grams' account
    stage         a model stage's account
    sizes         how large a tree should be, and when to stop growing it
    economy       these together: what drafters and the decoder ask

It decides trees and nothing else: no text depends on it. It knows no model and no device.
"""

from engine.economy.calibration import Kind
from engine.economy.costs import Costs, time_passes
from engine.economy.economy import TARGET_PASS, Economy, Spending

__all__ = ["TARGET_PASS", "Costs", "Economy", "Kind", "Spending", "time_passes"]
