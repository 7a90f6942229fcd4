"""What a stream tells of its steps if it is asked to: the tree of each as it was verified."""

from server.protocol.usage import StageMetrics
from server.protocol.wire import Wire


class TracedNode(Wire):
    """A node: a token that was proposed, under the place of its parent, which only the root lacks.

    `origin` names the stage that first proposed it; `estimate` is the probability, as believed
    before the target's pass, that the target chooses it there.
    """

    id: int
    """The token."""
    text: str
    """What it adds to the text."""
    parent: int | None
    """The place of its parent among the nodes."""
    depth: int
    """How many tokens lie between it and the text."""
    origin: str
    """The stage that proposed it."""
    estimate: float
    """The probability, as believed before the pass, that the target chooses it."""


class TracedToken(Wire):
    """A token of the reply, what it adds to the text, and who proposed it."""

    id: int
    """The token."""
    text: str
    """What it adds to the text."""
    origin: str
    """Who proposed it."""


class BonusToken(Wire):
    """The target's own token after the accepted path."""

    id: int
    """The token."""
    text: str
    """What it adds to the text."""


class TracedStep(Wire):
    """One step of a choice: its tree, which way through it was accepted, and what it took.

    `num_nodes` and `num_accepted` count all of the tree, of which `nodes` may be a part or none;
    `path` holds places among these. Times are those of the whole step, which several texts may
    share: `nodes_by_text` has the sizes of their trees, and `place` is this choice's among them.
    """

    step: int
    """Its number, from 0."""
    nodes: list[TracedNode]
    """The tree, or a part of it."""
    num_nodes: int
    """Nodes of the whole tree."""
    num_accepted: int
    """Of these, those that the target agreed with."""
    path: list[int]
    """Their places."""
    bonus: BonusToken
    """The target's own token after them."""
    tokens: list[TracedToken]
    """What the reply has of it."""
    place: int
    """Of this choice among the texts that shared the step."""
    nodes_by_text: list[int]
    """Nodes of each of these."""
    step_ms: float
    """What the step took, in milliseconds."""
    drafting_ms: float
    """Of that, what growing the tree took."""
    target_ms: float
    """Of that, the target's pass."""
    choosing_ms: float
    """Of that, choosing its tokens."""
    stages: list[StageMetrics]
    """What each stage contributed."""
