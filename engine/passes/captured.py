"""Runs a network's passes as they were recorded on a GPU, as far as they have been."""

import logging

from engine.errors import in_one_line
from engine.passes.function import LONGEST_REASON, MakeExample, PassFunction, Record
from engine.passes.graphs import Graphs
from engine.passes.proof import WrongPassError, prove
from engine.passes.runner import EagerRunner

_log = logging.getLogger(__name__)


class CapturedRunner(EagerRunner):
    """Records passes of its network, a few widths at a time, and replays them."""

    def __init__(self, function: PassFunction, example: MakeExample) -> None:
        super().__init__(function, example)
        self._graphs: Graphs | None = None
        self._is_fusible = True

    @property
    def is_uncaptured(self) -> bool:
        """Whether there are passes to be captured."""
        is_complete = self._graphs is not None and self._graphs.is_complete
        return not is_complete and self.refusal is None

    def capture(self, seconds: float, record: Record, is_fused: bool = False) -> bool:
        """Record passes that are not yet, for about so long; whether there are new ones.

        Each proves itself first. What cannot be fused is recorded as it is, and a function that
        cannot be recorded either goes on being run eagerly.
        """
        if not self.is_uncaptured:
            return False
        is_fused = is_fused and self._is_fusible
        try:
            graphs = self._graphs or Graphs(self._function, self._example, record, is_fused)
            prove(graphs, self._function, self._example, graphs.capture(seconds))
        except WrongPassError as error:
            reason = f"what was captured is wrong: {error}"
        except Exception as error:  # whatever a network may do that a graph cannot hold
            said = in_one_line(error)[:LONGEST_REASON]
            reason = f"they could not be captured and tried ({said})"
        else:
            self._fast = self._graphs = graphs
            self.recorder = record
            return True
        self._fast = self._graphs = self.recorder = None
        if is_fused:
            self._is_fusible = False
            _log.warning("passes are not fused: %s", reason)
            return self.capture(seconds, record)
        self._refuse(reason)
        return False
