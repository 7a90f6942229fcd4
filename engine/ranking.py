"""From logits to candidates, for rows of any texts at once: temperature, filters, noise.

A token is argmax over x of logit(x) / T + G(seed, position, x), which is an exact sample of the
filtered softmax (Gumbel-max) and depends on nothing that a drafter does. Filters leave few tokens,
and from there on a row is a short table of those: nothing but the search for them reads the rest.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from engine import kernels
from engine.candidates import Candidates
from engine.filters import EVERY, Array, Filters, above_sigma, is_narrowed, keep, kth, parts
from engine.kernels import choosing, triton_noise
from engine.noise import as_int64, noise_rows, noise_values
from engine.sampling import SPARE, Sampling

_WIDER = 8


def choose(
    samplings: Sequence[Sampling], positions: Sequence[int], logits: Tensor, rows: Sequence[int]
) -> list[int]:
    """The best candidate in each of these rows of logits (any, vocabulary), as `rank` has them.

    In one call of a kernel where there is one, but for rows that ask for what it does not know.
    """
    if _has_kernel(logits) and len({sampling.rule is None for sampling in samplings}) > 1:
        # Nobody's token depends on what a neighbour asks for, by a last bit of a logarithm.
        chosen = dict[int, int]()
        for has_rule in (True, False):
            among = [n for n, each in enumerate(samplings) if (each.rule is not None) == has_rule]
            about = [samplings[n] for n in among], [positions[n] for n in among]
            chosen |= zip(among, choose(*about, logits, [rows[n] for n in among]), strict=True)
        return [chosen[n] for n in range(len(rows))]
    if (rules := _rules(samplings, logits)) is not None:
        vocab_size = min(samplings[0].vocab_size, logits.shape[-1])
        if logits.dtype != torch.float32:
            logits, rows = picked(logits, rows).float(), range(len(rows))
        return choosing.choose(logits, vocab_size, rows, positions, rules)
    return rank(samplings, positions, picked(logits, rows)).best()


def picked(logits: Tensor, rows: Sequence[int]) -> Tensor:
    """These rows of logits: a view of one or of all, since a copy takes longer than to choose."""
    if len(rows) == 1:
        return logits[rows[0] : rows[0] + 1]
    return logits if [*rows] == [*range(logits.shape[0])] else logits[list(rows)]


def rank(samplings: Sequence[Sampling], positions: Sequence[int], logits: Tensor) -> Candidates:
    """What the filters leave of logits (rows, vocabulary), with the noise of their positions.

    Row i is sampled by `samplings[i]`, and chooses the token at the index `positions[i]` of its
    model's whole input. The best candidate is that token; the next best are what a drafter should
    offer too.
    """
    # A draft's vocabulary may be padded to another size than the target's; ids stay the same.
    if logits.shape[-1] > samplings[0].vocab_size:
        logits = logits[:, : samplings[0].vocab_size]
    logits = logits.float()
    kinds = {(sampling.kind, sampling.rule is None) for sampling in samplings}
    if len(kinds) == 1:
        return _RANKED[samplings[0].kind](samplings, positions, logits)
    scores = torch.empty(logits.shape)
    for kind in kinds:
        rows = [n for n, each in enumerate(samplings) if (each.kind, each.rule is None) == kind]
        among = [samplings[row] for row in rows], [positions[row] for row in rows]
        scores[rows] = _RANKED[kind[0]](*among, logits[rows]).whole(logits.shape[-1])
    return Candidates(scores)


def _greedy(samplings: Sequence[Sampling], positions: Sequence[int], logits: Tensor) -> Candidates:
    """Rows without filters or noise."""
    return Candidates(logits)


def _whole(samplings: Sequence[Sampling], positions: Sequence[int], logits: Tensor) -> Candidates:
    """Rows of which every token is a candidate, but for what XTC leaves out."""
    noise = _noise(samplings, positions, logits.device)[:, : logits.shape[-1]]
    filters = _filters(samplings, positions)
    scores = _scaled(logits, filters)
    if filters.xtc_threshold is not None:
        scores = keep(scores, Filters(xtc_threshold=_there(filters.xtc_threshold, logits)))
    return Candidates(scores + noise)


def _filtered(
    samplings: Sequence[Sampling], positions: Sequence[int], logits: Tensor
) -> Candidates:
    """Rows of which the filters leave few tokens: the likeliest of them, and no more than needed.

    They are looked for among more and more of the likeliest, until all that may count is there.
    """
    size = logits.shape[-1]
    if (rules := _rules(samplings, logits)) is not None:
        found = choosing.candidates(logits, size, positions, rules)
        return Candidates(found[0], found[1].numpy())
    filters = _filters(samplings, positions)
    if filters.top_n_sigma is not None:
        logits = above_sigma(logits, _there(filters.top_n_sigma, logits))
    total = _total(filters, logits)
    width = _width(samplings, filters, logits)
    while True:
        values, tokens = likeliest(logits, min(width, size))
        scores = values.cpu().numpy()
        if filters.temperature is not None:
            scores = scores / filters.temperature
        with np.errstate(invalid="ignore"):  # the best of a broken network may be infinite
            kept = keep(scores, filters, total)
        if width >= size or not _goes_on(scores, kept, filters):
            break
        width *= _WIDER
    ids = tokens.cpu().numpy()
    noise = noise_values([each.noise for each in samplings], positions, list(ids))
    return Candidates(torch.from_numpy(kept + noise.reshape(ids.shape)), ids)


_RANKED = {"greedy": _greedy, "whole": _whole, "filtered": _filtered}


def _rules(samplings: Sequence[Sampling], logits: Tensor) -> Sequence[choosing.Rule] | None:
    """What a kernel is told, where there is one and it knows all that is asked for."""
    if not _has_kernel(logits):
        return None
    rules = [rule for sampling in samplings if (rule := sampling.rule) is not None]
    return rules if len(rules) == len(samplings) else None


def _has_kernel(logits: Tensor) -> bool:
    return logits.is_cpu and kernels.is_loaded()


def _filters(samplings: Sequence[Sampling], positions: Sequence[int]) -> Filters:
    """The columns of these rows; numbers where one text has them all."""
    first = samplings[0]
    filters = first.filters
    if len(samplings) > 1 and any(sampling is not first for sampling in samplings):
        filters = Filters.of([sampling.params for sampling in samplings], first.vocab_size)
    if not any(sampling.is_excluding for sampling in samplings):
        return filters
    places = zip(samplings, positions, strict=True)
    thresholds = [sampling.xtc_threshold(position) for sampling, position in places]
    return filters._replace(xtc_threshold=np.array(thresholds, np.float32)[:, None])


def _scaled(logits: Tensor, filters: Filters) -> Tensor:
    """Over the temperature, where the logits are."""
    if filters.temperature is None:
        return logits
    scaled: Tensor = logits / _there(filters.temperature, logits)
    return scaled


def _there(column: Array, logits: Tensor) -> Array:
    """A column where the logits are."""
    is_array = isinstance(column, np.ndarray)
    return torch.from_numpy(column).to(logits.device, logits.dtype) if is_array else column


def _total(filters: Filters, logits: Tensor) -> Array | None:
    """The `parts` of whole rows, if top-p needs them: (rows, 1)."""
    if filters.top_p is None or np.all(is_narrowed(filters)):
        return None
    scaled = _scaled(logits, filters)
    own = parts(scaled - scaled.amax(dim=-1, keepdim=True))
    return own.sum(dim=-1, keepdim=True).cpu().numpy()


def likeliest(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The highest of rows, and their tokens: (rows, count) each, in falling order."""
    if 8 * count < logits.shape[-1] and _has_kernel(logits):
        return choosing.likeliest(logits, count)
    values, tokens = logits.topk(count, dim=-1)
    return values, tokens


def _width(samplings: Sequence[Sampling], filters: Filters, logits: Tensor) -> int:
    """How many of the likeliest tokens of a row to look at first: few, and seldom too few."""
    if known := [sampling.width for sampling in samplings if sampling.width]:
        return max(known)
    reach: Array = filters.min_p
    if filters.temperature is not None:
        reach = reach * filters.temperature
    floor = logits.amax(dim=-1, keepdim=True) + _there(reach, logits)
    return int((logits >= floor).sum(dim=-1).max()) + SPARE


def _goes_on(scores: Array, kept: Array, filters: Filters) -> bool:
    """Whether more may be kept, or tie with the last of top-k, behind the columns of any row."""
    goes_on = kept[:, -1:] > -math.inf
    if filters.top_k is not None:
        last = scores[:, -1:]
        is_tied = (last >= kth(scores, filters.top_k)) & (last > -math.inf)
        goes_on = goes_on | (is_tied & (filters.top_k < EVERY))
    return bool(goes_on.any())


def _noise(samplings: Sequence[Sampling], positions: Sequence[int], device: torch.device) -> Tensor:
    """The noise of whole rows, (rows, vocabulary), made where it is wanted if possible."""
    if device.type != "cuda" or not triton_noise.is_usable():
        return noise_rows([sampling.noise for sampling in samplings], positions)
    seeds = [as_int64(sampling.params.seed) for sampling in samplings]
    there = torch.tensor([seeds, list(positions)], device=device)
    return triton_noise.noise_rows(there[0], there[1], samplings[0].vocab_size)
