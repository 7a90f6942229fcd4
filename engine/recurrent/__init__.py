"""Layers that keep a state of their text: gated delta rules and short convolutions, under a tree.

Such a layer is served like an attention layer: it has a state for the committed text of each seat
(`states.py`), and for each row behind that what the row changes in it (`layer.py`). What a node
reads follows from the state, the rows and the ancestor mask alone (`descent.py`, `delta.py`), so a
tree is scored in one pass, is dropped for nothing, and a path of it is folded into the state when
it is accepted. There is no going back behind that but to copies (`seat.py`). The layers of
transformers are found, and are given our functions, in `binding.py`.
"""

from engine.recurrent.binding import bind, check_layers
from engine.recurrent.layer import KeptByLayer
from engine.recurrent.seat import NoState, SeatState, seat_bytes
from engine.recurrent.states import PassStates, States, Windows

__all__ = [
    "KeptByLayer",
    "NoState",
    "PassStates",
    "SeatState",
    "States",
    "Windows",
    "bind",
    "check_layers",
    "seat_bytes",
]
