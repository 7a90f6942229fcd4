"""What a family has come to, on files held out and on prompts."""

from __future__ import annotations

from functools import cached_property

from torch import Tensor
from transformers import PreTrainedModel

from engine.drafting.head_network import HeadNetwork
from engine.training.card import FamilyFacts, HeadFacts, ModelFacts
from engine.training.head import TrainingTimeTest
from engine.training.measure import model_agreement
from engine.training.objectives import mean_loss
from engine.training.plan import FamilyPlan
from engine.training.shapes import HeadPlan
from engine.training.streams import Streams
from engine.training.table import TableFacts
from engine.training.tokens import windows
from engine.training.trainer import Progress

_LENGTH, _SEQUENCES = 512, 200


class FamilyMeasure:
    """The texts that every figure of a family is measured on, and the figures."""

    def __init__(self, plan: FamilyPlan, streams: Streams) -> None:
        self._plan = plan
        self._streams = streams

    @cached_property
    def texts(self) -> list[Tensor]:
        """Ids [1, N] from files held out."""
        return windows(self._streams.held_out, _LENGTH, _SEQUENCES)

    @cached_property
    def prompts(self) -> list[Tensor]:
        """The plan's prompts in ids [1, N]."""
        encode = self._streams.tokenizer
        return [encode(p, return_tensors="pt")["input_ids"] for p in self._plan.prompts]

    def facts(
        self,
        target: tuple[PreTrainedModel, Progress],
        draft: tuple[PreTrainedModel, Progress],
        head: tuple[HeadNetwork, Progress],
        table: TableFacts,
    ) -> FamilyFacts:
        """The figures of these members, as the card tells them."""
        plan = self._plan
        return FamilyFacts(
            sources=plan.sources,
            vocab_size=plan.vocab_size,
            streams=self._streams.facts,
            target=_model_facts(*target, self.texts),
            draft=_model_facts(*draft, self.texts),
            head=_head_facts(plan.head_plan, *head, target[0], self.texts, self.prompts),
            table=table,
            agreement=model_agreement(draft[0], target[0], self.texts),
            prompt_agreement=model_agreement(draft[0], target[0], self.prompts or self.texts),
            has_prompts=bool(plan.prompts),
            is_draft_distilled=plan.is_draft_distilled,
        )


def _model_facts(model: PreTrainedModel, run: Progress, texts: list[Tensor]) -> ModelFacts:
    loss = mean_loss(model, texts)
    return ModelFacts(model.num_parameters(), run.step, run.tokens, run.seconds / 60, loss)


def _head_facts(
    plan: HeadPlan,
    head: HeadNetwork,
    run: Progress,
    target: PreTrainedModel,
    texts: list[Tensor],
    prompts: list[Tensor],
) -> HeadFacts:
    own = sum(p.numel() for p in head.parameters() if p.requires_grad)
    objective = TrainingTimeTest(head, target, plan.num_steps)
    on_texts = objective.held_out(texts)
    long_enough = [ids for ids in prompts if ids.shape[1] > 4 * plan.num_steps]
    on_prompts = objective.held_out(long_enough) if long_enough else on_texts
    facts = ModelFacts(own, run.step, run.tokens, run.seconds / 60, on_texts.loss)
    return HeadFacts(facts, on_texts.agreement, on_prompts.agreement)
