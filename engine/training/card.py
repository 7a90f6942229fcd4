"""The model card of a family: what it was trained on and how, and what it measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.training.corpus import STANDARD_LIBRARY, Source
from engine.training.streams import StreamFacts
from engine.training.table import TableFacts

_CARD = """\
# The embedded family

Models that complete Python source, trained by this project so that the first command works
offline and on a laptop. This is a demonstration: the target is a thousand times smaller than a
model one would write code with. It knows the look of Python and nothing of its meaning, and it soon
repeats itself. It does not chat or follow instructions, and nothing it writes can be relied on.

| member | what it is | weights | tokens seen | minutes | loss, nats per token |
|---|---|--:|--:|--:|--:|
| `target/` | Llama architecture, bfloat16 | {target} |
| `draft/` | the same, {ratio:.1f} times smaller{how} | {draft} |
| `head/` | EAGLE-3 layout, one layer; the target's embedding and output matrix | {head} |
| `draft2/` | Katz back-off trigram | {trigrams:,} trigrams, {megabytes:.1f} MB | | | |

All share one byte-level BPE of {vocab_size:,} entries, in which any UTF-8 text round-trips.
`<|endoftext|>` (id 0) ends a file. Losses are measured on files held out of training, in sequences
of 512 tokens, the head's against the target's own distribution; a uniform guess would score
{uniform:.2f}.

Agreement, the share of positions at which two members have the same first choice:

| | held out | prompts |
|---|--:|--:|
| draft and target | {agreement:.1%} | {prompt_agreement} |
{head_rows}
| table and draft, table from the corpus | {by_corpus:.1%} | |
| table and draft, table from {sampled:.1f}M tokens sampled at T = 1.5 | {by_samples:.1%} | |

The table that ships is the better of the two.

## Data

Python source that is installed with the project: the standard library and dependencies under
permissive licences, without tests, vendored parts and data files. A file is dropped when half of
its longer lines stood in files before it. {train_files:,} files ({train_tokens:.2f}M tokens) are
there to train on; {held_out_files:,} ({held_out_tokens:.2f}M tokens), chosen by the hash of their
text, are held out. {exclusion}

| source | licence | share of files | characters |
|---|---|--:|--:|
{sources}

The weights are under this project's licence, Apache-2.0.

## Training

From scratch, in float32 on the CPU: Muon for hidden matrices and AdamW for the rest, 4,096 tokens
a step, sequences of 256 tokens, then 512, at last 1,024 (draft and head: 2,048); linear warm-up, a
plateau, a cosine to zero. The head learns the target's distribution from the target's hidden
states, {head_steps} tokens ahead, the later ones from its own output. Contexts beyond the longest
sequence are completed less well. This command makes the family again; how many tokens fit into the
minutes depends on the machine:

    {command}
"""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """One trained model: its size, what it has seen, and its loss in nats on held-out files."""

    num_parameters: int
    num_steps: int
    num_tokens: int
    minutes: float
    loss: float

    def row(self) -> str:
        """The model's cells in the card's first table."""
        size, tokens = self.num_parameters / 1e6, self.num_tokens / 1e6
        return f"{size:.2f}M | {tokens:.2f}M | {self.minutes:.0f} | {self.loss:.3f}"


@dataclass(frozen=True, slots=True)
class HeadFacts:
    """The head, its own weights alone, and its agreement with the target at each step ahead."""

    model: ModelFacts
    agreement: Sequence[float]
    prompt_agreement: Sequence[float]


@dataclass(frozen=True, slots=True)
class FamilyFacts:
    """Everything that the card states."""

    sources: Sequence[Source]
    streams: StreamFacts
    target: ModelFacts
    draft: ModelFacts
    head: HeadFacts
    table: TableFacts
    agreement: float
    prompt_agreement: float
    has_prompts: bool
    is_draft_distilled: bool
    vocab_size: int


def write_card(file: Path, facts: FamilyFacts, command: str) -> None:
    """Write the model card, as Markdown."""
    streams, table = facts.streams, facts.table
    text = _CARD.format(
        target=facts.target.row(),
        draft=facts.draft.row(),
        ratio=facts.target.num_parameters / facts.draft.num_parameters,
        trigrams=table.num_trigrams,
        megabytes=table.num_bytes / 1e6,
        vocab_size=facts.vocab_size,
        uniform=math.log(facts.vocab_size),
        agreement=facts.agreement,
        how=", distilled from it" if facts.is_draft_distilled else "",
        head=facts.head.model.row(),
        head_steps=len(facts.head.agreement),
        head_rows="\n".join(_head_rows(facts)),
        prompt_agreement=_on_prompts(facts, facts.prompt_agreement),
        by_corpus=table.by_corpus,
        by_samples=table.by_samples,
        sampled=table.num_sampled_tokens / 1e6,
        train_files=streams.train_files,
        train_tokens=streams.train_tokens / 1e6,
        held_out_files=streams.held_out_files,
        held_out_tokens=streams.held_out_tokens / 1e6,
        exclusion=_exclusion(facts),
        sources="\n".join(_source_rows(facts)),
        command=command,
    )
    file.write_text(text, encoding="utf-8")


def _head_rows(facts: FamilyFacts) -> list[str]:
    both = zip(facts.head.agreement, facts.head.prompt_agreement, strict=True)
    return [
        f"| head and target, {ahead} ahead | {share:.1%} | {_on_prompts(facts, prompts)} |"
        for ahead, (share, prompts) in enumerate(both, start=1)
    ]


def _on_prompts(facts: FamilyFacts, agreement: float) -> str:
    return f"{agreement:.1%}" if facts.has_prompts else ""


def _exclusion(facts: FamilyFacts) -> str:
    if not facts.has_prompts:
        return ""
    num_files = facts.streams.excluded_files
    return f"Files that share 12 words in a row with a benchmark prompt were left out: {num_files}."


def _source_rows(facts: FamilyFacts) -> list[str]:
    characters = facts.streams.characters
    return [
        f"| {_name(s)} | {s.licence} | {s.share:.0%} | {characters.get(s.package, 0):,} |"
        for s in facts.sources
    ]


def _name(source: Source) -> str:
    return "Python's standard library" if source.package == STANDARD_LIBRARY else source.package
