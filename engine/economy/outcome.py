"""What came of one step, for the economy to learn from."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the text reached, whose nodes that were, and what the step took.

    `reached` are the nodes that the text reached, in the tree as it grew, each with the target's
    token there. `proposed` and `accepted` name the stages of the nodes verified and of those
    accepted. Of milliseconds there are those of the step, of its target pass and of the choice of
    its tokens; `num_rows` are those of the pass, `num_nodes` those of the tree.
    """

    reached: Sequence[tuple[int, int]]
    total: float
    target: float
    choosing: float
    num_rows: int
    num_nodes: int
    proposed: Sequence[str] = ()
    accepted: Sequence[str] = ()

    def brought_by(self, name: str, passes: Sequence[Sequence[int]]) -> list[int]:
        """How many accepted tokens of a stage hang below the rows of each of its passes."""
        if not passes:
            return []
        # All nodes reached but the last have an accepted child.
        origins = zip(self.reached, self.accepted, strict=False)
        parents = {node for (node, _), origin in origins if origin == name}
        return [len(parents.intersection(nodes)) for nodes in passes]
