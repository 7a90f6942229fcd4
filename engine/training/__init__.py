"""Offline: texts, tokenizers, targets, and the drafters of a target, trained and measured.

`family` makes what ships, `workshop` drafters for a model of one's own. Nothing that serves a
request imports this room.
"""

import os

from engine.program import short_spins

os.environ.update(short_spins())  # before torch is loaded
