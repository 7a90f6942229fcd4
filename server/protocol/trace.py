"""What a stream tells of its steps if it is asked to: the tree of each as it was verified."""

from server.protocol.usage import StageMetrics
from server.protocol.wire import Wire


class TracedNode(Wire):
    """A node: a token that was proposed, under the place of its parent, which only the root lacks.

    `origin` names the stage that first proposed it; `estimate` is the probability, as believed
    before the target's pass, that the target chooses it there.
    """

    id: int
    text: str
    parent: int | None
    depth: int
    origin: str
    estimate: float


class TracedToken(Wire):
    """A token of the reply, what it adds to the text, and who proposed it."""

    id: int
    text: str
    origin: str


class BonusToken(Wire):
    """The target's own token after the accepted path."""

    id: int
    text: str


class TracedStep(Wire):
    """One step of a choice: its tree, which way through it was accepted, and what it took.

    `num_nodes` and `num_accepted` count all of the tree, of which `nodes` may be a part or none;
    `path` holds places among these. Times are those of the whole step, which several texts may
    share: `nodes_by_text` has the sizes of their trees, and `place` is this choice's among them.
    """

    step: int
    nodes: list[TracedNode]
    num_nodes: int
    num_accepted: int
    path: list[int]
    bonus: BonusToken
    tokens: list[TracedToken]
    place: int
    nodes_by_text: list[int]
    step_ms: float
    drafting_ms: float
    target_ms: float
    choosing_ms: float
    stages: list[StageMetrics]
