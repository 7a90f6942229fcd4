"""llama.cpp through llama-cpp-python: plain in every precision, a draft model, prompt lookup.

The loops stand on the package's low-level functions, which are llama.cpp's own, and choose tokens
in numpy: the high-level `Llama.generate` does more in Python than a pass of a small model costs.
What drafts is the package's prompt lookup, or a chain of a second model behind the same interface.
"""

import ctypes
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp.llama_speculative import LlamaDraftModel, LlamaPromptLookupDecoding
from numpy.typing import NDArray

from benchmarks.peers.gguf_file import gguf_file
from benchmarks.peers.rows import Emit, Row, Setup, Task

PRECISIONS = {32: "F32", 16: "BF16", 8: "Q8_0", 4: "Q4_1"}
"""By the bits of a weight."""

_MARGIN = 64
"""Slots beyond the window, for drafts that are taken back."""

Ids = NDArray[np.intc]


def rows(setup: Setup) -> list[Row]:
    """Every way of generating in every precision."""
    logging.getLogger("llama-cpp-python").setLevel(logging.CRITICAL)
    llama_cpp.llama_backend_init()
    return [row for bits in setup.bits for row in _rows(setup, PRECISIONS[bits])]


def _rows(setup: Setup, precision: str) -> list[Row]:
    target = Network(setup.target, precision, setup)

    def row(name: str, draft: LlamaDraftModel | None, about: str) -> Row:
        return Row(f"{name} {precision}", precision, Decoding(target, draft).generate, about=about)

    system = llama_cpp.llama_print_system_info().decode().strip(" |")
    made = [row("plain", None, system)]
    lookup = LlamaPromptLookupDecoding(num_pred_tokens=setup.ahead)
    made.append(row("prompt lookup", lookup, f"num_pred_tokens={setup.ahead}"))
    if setup.draft is not None:
        draft_precision = "F32" if precision == "F32" else "BF16"
        network = Network(setup.draft, draft_precision, setup)
        about = f"{setup.draft.name} in {draft_precision}, {setup.ahead} tokens a step"
        made.append(row("draft model", DraftChain(network, setup.ahead), about))
    return made


class Network:
    """A model and one text in its cache; a read token's logits are asked for or not made."""

    def __init__(self, checkpoint: Path, precision: str, setup: Setup) -> None:
        path = gguf_file(checkpoint, precision, setup.work)
        self._model = llama_cpp.llama_model_load_from_file(
            str(path).encode(), llama_cpp.llama_model_default_params()
        )
        num_slots = setup.window + _MARGIN
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = num_slots
        params.n_threads = params.n_threads_batch = setup.threads
        params.no_perf = True
        if precision == "F32":  # as equal to ours as it can be; else its cache is in float16
            params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
            params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        if not self._context:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        self._memory = llama_cpp.llama_get_memory(self._context)
        vocab = llama_cpp.llama_model_get_vocab(self._model)
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(vocab)
        self._batch = llama_cpp.llama_batch_init(num_slots, 0, 1)
        self._tokens, self._positions, self._has_logits = (
            np.ctypeslib.as_array(array, (num_slots,))
            for array in (self._batch.token, self._batch.pos, self._batch.logits)
        )
        for slot in range(num_slots):
            self._batch.n_seq_id[slot] = 1
            self._batch.seq_id[slot][0] = 0
        self.length = 0

    def keep(self, length: int) -> None:
        """Forget what was read after the first `length` tokens."""
        if length < self.length:
            llama_cpp.llama_memory_seq_rm(self._memory, 0, length, -1)
            self.length = length

    def read(self, tokens: Sequence[int] | Ids, num_chosen: int = 1) -> Ids:
        """Read on; the likeliest next tokens after each of the last `num_chosen`."""
        count = len(tokens)
        self._tokens[:count] = tokens
        self._positions[:count] = np.arange(self.length, self.length + count)
        self._has_logits[:count] = 0
        self._has_logits[count - num_chosen : count] = 1
        self._batch.n_tokens = count
        if status := llama_cpp.llama_decode(self._context, self._batch):
            raise RuntimeError(f"llama_decode returned {status}")
        self.length += count
        pointer: Any = llama_cpp.llama_get_logits(self._context)
        address = ctypes.addressof(pointer.contents)
        kind = ctypes.c_float * (num_chosen * self._vocab_size)
        logits = np.frombuffer(kind.from_address(address), np.float32)
        chosen: Ids = logits.reshape(num_chosen, -1).argmax(1).astype(np.intc)
        return chosen


class DraftChain(LlamaDraftModel):  # type: ignore[misc]
    """A second model that drafts one token after the other."""

    def __init__(self, network: Network, num_tokens: int) -> None:
        self._network = network
        self._num_tokens = num_tokens
        self._known = np.empty(0, np.intc)

    def __call__(self, input_ids: Ids, /, **_: Any) -> Ids:
        """The likeliest tokens after a text, of which only the news are read."""
        network = self._network
        size = min(network.length, len(input_ids) - 1)
        differs = self._known[:size] != input_ids[:size]
        network.keep(int(differs.argmax()) if differs.any() else size)
        drafts = list(network.read(input_ids[network.length :]))
        for _pass in range(self._num_tokens - 1):
            drafts.extend(network.read(drafts[-1:]))
        self._known = np.concatenate([input_ids, np.array(drafts, np.intc)])
        return self._known[len(input_ids) :]


class Decoding:
    """Greedy decoding, plain or of what a draft model proposes."""

    def __init__(self, target: Network, draft: LlamaDraftModel | None) -> None:
        self._target = target
        self._draft = draft

    def generate(self, task: Task, emit: Emit) -> None:
        """Do a task; every step emits the drafts that were right and one token more."""
        self._target.keep(0)
        text = np.array([*task.prompt, *[0] * task.num_tokens], np.intc)
        length, end = len(task.prompt), len(text)
        new = self._target.read(text[:length])
        while True:
            text[length : length + len(new)] = new
            length += len(new)
            emit(new.tolist())
            if length == end:
                return
            new = self._step(text[:length], end - length)

    def _step(self, text: Ids, num_left: int) -> Ids:
        if self._draft is None:
            return self._target.read(text[-1:])
        drafts = self._draft(text)[: num_left - 1]
        chosen = self._target.read([text[-1], *drafts], 1 + len(drafts))
        is_wrong = chosen[:-1] != drafts
        num_right = int(is_wrong.argmax()) if is_wrong.any() else len(drafts)
        self._target.keep(len(text) + num_right)
        return chosen[: num_right + 1]
