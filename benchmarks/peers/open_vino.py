"""OpenVINO GenAI: plain in three precisions, a draft model, prompt lookup.

It reads GGUF files, none of bfloat16: float16 holds the same weights but for the very smallest.
Arithmetic and cache are in float32, which is its fastest here and writes our text. Only a draft
model must be in OpenVINO's own format, which it saves with all constants in float16.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai
import openvino_tokenizers
from transformers import AutoTokenizer

from benchmarks.peers.gguf_file import gguf_file
from benchmarks.peers.rows import Emit, Row, Setup, Task

PRECISIONS = {16: "F16", 8: "Q8_0", 4: "Q4_1"}
"""By the bits of a weight."""

DRAFT_TOKENS = 3
LOOKUP_TOKENS, LOOKUP_SIZE = 5, 3


def rows(setup: Setup) -> list[Row]:
    """Plain in every precision that is wanted, speculation in the first."""
    tokenizer = _tokenizer(setup)
    properties = _properties(setup)

    def row(name: str, precision: str, options: Mapping[str, int], **extra: Any) -> Row:
        path = gguf_file(setup.target, precision, setup.work)
        pipeline = openvino_genai.LLMPipeline(path, tokenizer, "CPU", **properties, **extra)
        about = ", ".join(f"{key}={value}" for key, value in options.items())
        return Row(
            f"{name} {precision}", precision, Decoding(pipeline, options).generate, about=about
        )

    lookup = {"num_assistant_tokens": LOOKUP_TOKENS, "max_ngram_size": LOOKUP_SIZE}
    precisions = [PRECISIONS[bits] for bits in setup.bits if bits in PRECISIONS]
    if not precisions:
        return []
    made = [row("plain", precision, {}) for precision in precisions]
    first = precisions[0]
    made.append(row("prompt lookup", first, lookup, prompt_lookup=True))
    if setup.draft is not None:
        folder = _saved(setup.draft, setup)
        draft = openvino_genai.draft_model(folder, "CPU", **properties)
        options = {"num_assistant_tokens": DRAFT_TOKENS}
        made.append(row("draft model", first, options, draft_model=draft))
    return made


def _properties(setup: Setup) -> dict[str, Any]:
    """Of every network. A prompt is read at once, and none is remembered from an earlier call."""
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.max_num_batched_tokens = setup.window
    scheduler.enable_prefix_caching = False
    return {
        "scheduler_config": scheduler,
        "INFERENCE_NUM_THREADS": setup.threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "KV_CACHE_PRECISION": "f32",
    }


def _tokenizer(setup: Setup) -> Any:
    """One that a pipeline insists on; ids go in and out."""
    folder = setup.work / "tokenizer"
    _save_tokenizer(setup.folder, folder)
    return openvino_genai.Tokenizer(folder)


def _save_tokenizer(checkpoint: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    known = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False)
    pair = openvino_tokenizers.convert_tokenizer(known, with_detokenizer=True)
    for name, converted in zip(("tokenizer", "detokenizer"), pair, strict=True):
        openvino.save_model(converted, folder / f"openvino_{name}.xml")


def _saved(checkpoint: Path, setup: Setup) -> Path:
    """A folder with the checkpoint in OpenVINO's own format."""
    source = gguf_file(checkpoint, "F16", setup.work)
    folder = source.with_suffix(".openvino")
    _save_tokenizer(checkpoint, folder)
    copy = folder / source.name
    copy.write_bytes(source.read_bytes())  # it saves beside the file that it reads
    openvino_genai.LLMPipeline(
        copy, openvino_genai.Tokenizer(folder), "CPU", enable_save_ov_model=True
    )
    return folder


class Decoding:
    """Greedy decoding with a pipeline."""

    def __init__(self, pipeline: Any, options: Mapping[str, int]) -> None:
        self._pipeline = pipeline
        self._options = options

    def generate(self, task: Task, emit: Emit) -> None:
        """Do a task; tokens come as the pipeline streams them."""
        config = openvino_genai.GenerationConfig(
            max_new_tokens=task.num_tokens, ignore_eos=True, do_sample=False, **self._options
        )
        ids = np.array([task.prompt])
        prompt = openvino_genai.TokenizedInputs(
            openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids))
        )
        self._pipeline.generate(prompt, config, Streamer(emit))


class Streamer(openvino_genai.StreamerBase):  # type: ignore[misc]
    """Hands tokens on."""

    def __init__(self, emit: Emit) -> None:
        super().__init__()
        self._emit = emit

    def write(self, token: int | list[int]) -> Any:
        """Take one token or several."""
        self._emit([token] if isinstance(token, int) else token)
        return openvino_genai.StreamingStatus.RUNNING

    def end(self) -> None:
        """Nothing is held back."""
