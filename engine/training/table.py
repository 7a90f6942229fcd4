"""draft² from two kinds of text, the drafter's own samples and the corpus; the better is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel

from engine.drafting.katz import KatzTable
from engine.training.measure import table_agreement
from engine.training.sample import SamplePlan, sample_texts
from engine.training.streams import Streams
from engine.training.tokens import Stream


@dataclass(frozen=True, slots=True)
class TableFacts:
    """The kept table's size, and how often each candidate agreed with the drafter."""

    by_samples: float
    by_corpus: float
    num_sampled_tokens: int
    num_trigrams: int
    num_bytes: int

    @property
    def is_from_samples(self) -> bool:
        """Whether the table counted from samples was the better one."""
        return self.by_samples > self.by_corpus


def make_table(
    draft: PreTrainedModel,
    streams: Streams,
    plan: SamplePlan,
    texts: Sequence[Tensor],
    work: Path,
    max_bytes: int,
    report: Callable[[str, float], None],
) -> tuple[KatzTable, TableFacts]:
    """Count a table from text sampled from `draft` and one from the corpus; keep the better.

    Samples are kept in `work` and continued there; both are counted as streams, in bounded
    memory. `texts` [1, N] are what agreement is measured on, and `report` hears what is being done
    and what share of it is.
    """
    vocab_size = draft.config.get_text_config().vocab_size

    def count(texts: Iterable[Stream]) -> KatzTable:
        return KatzTable.build(texts, vocab_size, max_bytes=max_bytes)

    sampling = sample_texts(
        draft, streams.train, plan, work, lambda share: report("sampling from the draft", share)
    )
    sampled = count(sampling)
    report("counting the corpus", 0.0)
    counted = count(streams.train_texts())
    report("measuring both tables", 0.0)
    by_samples = table_agreement(sampled, draft, texts)
    by_corpus = table_agreement(counted, draft, texts)
    best = sampled if by_samples > by_corpus else counted
    return best, TableFacts(
        by_samples, by_corpus, plan.num_tokens, best.num_trigrams, best.num_bytes
    )
