"""Hugging Face `generate`: eager, compiled with a static cache, assisted, with prompt lookup."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, CompileConfig
from transformers.generation.streamers import BaseStreamer
from transformers.utils import logging

from benchmarks.peers.rows import Emit, Row, Setup, Task

DTYPES = ("float32", "bfloat16")
LOOKUP_TOKENS = 3


def rows(setup: Setup) -> list[Row]:
    """Every way of generating in every precision."""
    logging.set_verbosity_error()
    return [row for dtype in DTYPES for row in _rows(setup, dtype)]


def _rows(setup: Setup, dtype: str) -> list[Row]:
    model = _load(setup.target, dtype)

    def row(name: str, about: str = "", **options: Any) -> Row:
        return Row(f"{name} {dtype}", dtype, _generation(model, options), about=about)

    # `generate` compiles by itself on a GPU only, until it is told that a CPU will do.
    compile_config: Any = CompileConfig(mode="default", dynamic=False)
    compile_config._compile_all_devices = True
    made = [
        row("eager"),
        row(
            "compiled",
            f"StaticCache of {setup.window} rows, inductor",
            cache_implementation="static",
            max_cache_len=setup.window,
            compile_config=compile_config,
        ),
        row(
            "prompt lookup",
            f"prompt_lookup_num_tokens={LOOKUP_TOKENS}",
            prompt_lookup_num_tokens=LOOKUP_TOKENS,
        ),
    ]
    if setup.draft is not None:
        assistant = _load(setup.draft, dtype)
        made.append(row("assistant", setup.draft.name, assistant_model=assistant))
    return made


def _load(folder: Path, dtype: str) -> Any:
    """A model that no end-of-text token stops."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    model.generation_config.eos_token_id = None
    return model


def _generation(model: Any, options: dict[str, Any]) -> Callable[[Task, Emit], None]:
    @torch.inference_mode()
    def generate(task: Task, emit: Emit) -> None:
        ids = torch.tensor([task.prompt])
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=task.num_tokens,
            streamer=_Streamer(emit),
            **options,
        )

    return generate


class _Streamer(BaseStreamer):
    """Hands tokens on; the first that it is given are those of the prompt."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._has_prompt = False

    def put(self, value: Tensor) -> None:
        """Take what is new."""
        if self._has_prompt:
            self._emit(value.flatten().tolist())
        self._has_prompt = True

    def end(self) -> None:
        """Nothing is held back."""
