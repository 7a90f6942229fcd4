"""Hugging Face `generate`: eager, compiled with a static cache, assisted, with prompt lookup."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, CompileConfig
from transformers.generation.streamers import BaseStreamer
from transformers.utils import logging

from benchmarks.peers.rows import DTYPES, Emit, Generate, Row, Setup, Task

LOOKUP_TOKENS = 3


def rows(setup: Setup) -> list[Row]:
    """Every way of generating in every precision."""
    quiet()
    dtypes = [DTYPES[bits] for bits in setup.bits if bits >= 16]
    return [row for dtype in dtypes for row in _rows(setup, dtype)]


def _rows(setup: Setup, dtype: str) -> list[Row]:
    model = load(setup.target, dtype)

    def row(name: str, about: str = "", **options: Any) -> Row:
        made = generation(model, do_sample=False, **options)
        return Row(f"{name} {dtype}", dtype, made, about=about)

    made = [
        row("eager"),
        row(
            "compiled",
            f"StaticCache of {setup.window} rows, inductor",
            **compiling(setup.window),
        ),
        row(
            "prompt lookup",
            f"prompt_lookup_num_tokens={LOOKUP_TOKENS}",
            prompt_lookup_num_tokens=LOOKUP_TOKENS,
        ),
    ]
    if setup.draft is not None:
        assistant = load(setup.draft, dtype)
        made.append(row("assistant", setup.draft.name, assistant_model=assistant))
    return made


def quiet() -> None:
    """Leave the terminal to who measures."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def load(checkpoint: Path, dtype: str, device: str = "cpu") -> Any:
    """A model, of a folder or a GGUF file, that no end-of-text token stops."""
    is_file = checkpoint.suffix == ".gguf"
    model: Any = AutoModelForCausalLM.from_pretrained(
        checkpoint.parent if is_file else checkpoint,
        gguf_file=checkpoint.name if is_file else None,
        dtype=getattr(torch, dtype),
        trust_remote_code=False,
    ).eval()
    model.generation_config.eos_token_id = None
    return model.to(device)


def compiling(window: int, mode: str = "default", backend: str = "inductor") -> dict[str, Any]:
    """Options of `generate`: a static cache of `window` rows, and steps that are compiled."""
    # `generate` compiles by itself on a GPU only, until it is told that a CPU will do.
    config: Any = CompileConfig(mode=mode, backend=backend, dynamic=False)
    config._compile_all_devices = True
    return {"cache_implementation": "static", "max_cache_len": window, "compile_config": config}


def generation(model: Any, **options: Any) -> Generate:
    """Does a task with `generate` and these options of it."""

    @torch.inference_mode()
    def generate(task: Task, emit: Emit) -> None:
        ids = torch.tensor([task.prompt], device=model.device)
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
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
