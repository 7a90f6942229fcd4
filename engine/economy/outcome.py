"""What came of one step, for the economy to learn from."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the texts reached, whose nodes that were, and what the step took.

    `reached` are the nodes that texts reached, in the tree as it grew, each with the target's token
    there; the first of them are all roots, as many as `num_texts`. `proposed` and `accepted` name
    the stages of the nodes verified and of those accepted, `parents` the nodes above the latter. Of
    milliseconds there are those of the step, of its target pass and of the choice of its tokens;
    `num_rows` are those of the pass, `num_nodes` those of the tree.
    """

    reached: Sequence[tuple[int, int]]
    total: float
    target: float
    choosing: float
    num_rows: int
    num_nodes: int
    proposed: Sequence[str] = ()
    accepted: Sequence[str] = ()
    parents: Sequence[int] = ()
    num_texts: int = 1

    @property
    def at_roots(self) -> Sequence[tuple[int, int]]:
        """The roots, each with the target's token there."""
        return self.reached[: self.num_texts]

    def brought_by(self, name: str, passes: Sequence[Sequence[int]]) -> list[int]:
        """How many accepted tokens of a stage hang below the rows of each of its passes."""
        if not passes:
            return []
        origins = zip(self.parents, self.accepted, strict=True)
        parents = {node for node, origin in origins if origin == name}
        return [len(parents.intersection(nodes)) for nodes in passes]
