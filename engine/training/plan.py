"""What the embedded family is: shapes, sources, and how long its members are trained."""

from collections.abc import Iterable
from dataclasses import dataclass

from engine.training.corpus import SOURCES, Source
from engine.training.recipe import LONG_LENGTHS, Recipe
from engine.training.sample import SamplePlan
from engine.training.shapes import HeadPlan

_SHARED: dict[str, object] = {
    "max_position_embeddings": 2048,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
TARGET_SHAPE: dict[str, object] = {
    **_SHARED,
    "hidden_size": 384,
    "intermediate_size": 1280,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
}
DRAFT_SHAPE: dict[str, object] = {
    **_SHARED,
    "hidden_size": 80,
    "intermediate_size": 208,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
}
HEAD_PLAN = HeadPlan(intermediate_size=1024, layers=(2, 4, 6), num_steps=3)


@dataclass(frozen=True, slots=True)
class FamilyPlan:
    """What is trained, on what, and for how long."""

    target: Recipe
    draft: Recipe
    head: Recipe
    samples: SamplePlan
    target_shape: dict[str, object]
    draft_shape: dict[str, object]
    head_plan: HeadPlan = HEAD_PLAN
    is_draft_distilled: bool = False
    vocab_size: int = 8192
    table_bytes: int = 2_400_000
    sources: tuple[Source, ...] = SOURCES
    prompts: tuple[str, ...] = ()


def family_plan(
    target_minutes: float,
    draft_minutes: float,
    head_minutes: float,
    sample_tokens: int,
    prompts: Iterable[str] = (),
    is_compiled: bool = False,
    is_draft_distilled: bool = False,
) -> FamilyPlan:
    """The plan of the family that ships, for these budgets."""
    return FamilyPlan(
        target=Recipe(target_minutes, is_compiled=is_compiled),
        draft=Recipe(draft_minutes, lengths=LONG_LENGTHS, is_compiled=is_compiled),
        # A budget this small buys more steps of fewer tokens: the head learns faster by them.
        head=Recipe(head_minutes, lengths=LONG_LENGTHS, batch_tokens=1024, is_compiled=is_compiled),
        samples=SamplePlan(sample_tokens),
        target_shape=TARGET_SHAPE,
        draft_shape=DRAFT_SHAPE,
        is_draft_distilled=is_draft_distilled,
        prompts=tuple(prompts),
    )
