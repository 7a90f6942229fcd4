"""The steps that a piece came from, as a stream tells them where it was asked to."""

from collections import Counter
from dataclasses import dataclass, field

from engine import StepStats, StepTrace
from server.piece import Piece
from server.protocol import BonusToken, TracedNode, TracedStep, TracedToken
from server.text import Tokenizer
from server.translate.figures import stage_metrics_of

MAX_NODES = 2**16
"""Of all trees that one reply tells, some 6 MB; steps after that come without theirs."""


@dataclass(slots=True)
class TraceWriter:
    """Tells the steps of one reply; mutable. `num_nodes` have been told so far."""

    tokenizer: Tokenizer
    num_nodes: int = 0
    num_steps: Counter[int] = field(default_factory=Counter)

    def steps(self, piece: Piece) -> list[TracedStep] | None:
        """The steps of a piece, each with those of its tokens that the reply keeps; None if none.

        All but the last have as many as they accepted and the bonus token; that one may be cut by
        the end of the text.
        """
        told, at = [], 0
        for stats in piece.steps:
            if stats.trace is None:
                continue
            end = at + stats.num_accepted_drafts + 1
            pairs = zip(piece.tokens[at:end], piece.texts[at:end], strict=True)
            tokens = [
                TracedToken(id=token.token_id, text=text, origin=token.origin)
                for token, text in pairs
            ]
            told.append(self._step(piece.index, stats, stats.trace, tokens))
            at = end
        return told or None

    def _step(
        self, choice: int, stats: StepStats, trace: StepTrace, tokens: list[TracedToken]
    ) -> TracedStep:
        self.num_steps[choice] += 1
        nodes = self._nodes(trace) if self.num_nodes < MAX_NODES else []
        self.num_nodes += len(nodes)
        return TracedStep(
            step=self.num_steps[choice],
            nodes=nodes,
            num_nodes=stats.num_nodes,
            num_accepted=stats.num_accepted_drafts,
            path=[*trace.path] if nodes else [],
            bonus=BonusToken(
                id=trace.bonus_token, text=self.tokenizer.token_text(trace.bonus_token)
            ),
            tokens=tokens,
            place=trace.text,
            nodes_by_text=[*trace.nodes_by_text],
            step_ms=trace.milliseconds,
            drafting_ms=trace.growing_milliseconds,
            target_ms=trace.scoring_milliseconds,
            choosing_ms=trace.choosing_milliseconds,
            stages=[stage_metrics_of(stage) for stage in stats.stages],
        )

    def _nodes(self, trace: StepTrace) -> list[TracedNode]:
        nodes: list[TracedNode] = []
        columns = zip(trace.tokens, trace.parents, trace.origins, trace.estimates, strict=True)
        for token, parent, origin, estimate in columns:
            nodes.append(
                TracedNode(
                    id=token,
                    text=self.tokenizer.token_text(token),
                    parent=None if parent < 0 else parent,
                    depth=0 if parent < 0 else nodes[parent].depth + 1,
                    origin=origin,
                    estimate=round(estimate, 4),
                )
            )
        return nodes
