"""Layers that keep a state of their text: convolutions and linear recurrences, under a tree.

Such a layer is served like an attention layer: it has a state for the committed text of each seat
and for each row behind that what the row changes in it (`layer.py`, `states.py`). What a node reads
follows from the state, the rows and the ancestor mask alone (`forest.py`, `recurrence.py`).
So a tree is scored in one pass and dropped for nothing, and a path of it is folded into the state
when it is accepted. There is no going back behind that but to copies (`seat.py`). The layers of
transformers are found in `binding.py`, and given our `functions.py`.
"""

from engine.recurrent.binding import bind, check_layers
from engine.recurrent.forest import Grouping, Sizes
from engine.recurrent.layer import KeptByLayer
from engine.recurrent.seat import NoState, SeatState, seat_bytes, spare_bytes
from engine.recurrent.states import PassStates, States, StatesOfPass, Windows

__all__ = [
    "Grouping",
    "KeptByLayer",
    "NoState",
    "PassStates",
    "SeatState",
    "Sizes",
    "States",
    "StatesOfPass",
    "Windows",
    "bind",
    "check_layers",
    "seat_bytes",
    "spare_bytes",
]
