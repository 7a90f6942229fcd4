"""The machine that a figure was taken on."""

import os
import platform
import time
from pathlib import Path

import torch
import transformers
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler

from engine.threads import THREADS

_CPU_INFO = Path("/proc/cpuinfo")


def machine() -> dict[str, str | int]:
    """What a figure must be quoted with: the hardware and the versions beneath the engine."""
    is_gpu = torch.cuda.is_available()
    return {
        "hardware": torch.cuda.get_device_name() if is_gpu else _processor(),
        "cores": os.cpu_count() or 1,
        "threads": THREADS.num_threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def measured_bandwidth(device: str) -> float:
    """Bytes a second that a device reads from its memory: the best of ten sums over 512 MiB.

    Over 2 GiB on a GPU, whose memory is so fast that launching a smaller sum would count.
    """
    numbers = torch.ones(1 << (27 if torch.device(device).type == "cpu" else 29), device=device)
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        numbers.sum().item()
        best = min(best, time.perf_counter() - started)
    return numbers.nbytes / best


def cpp_compiler() -> str | None:
    """The C++ compiler that passes are compiled with; None if there is none."""
    try:
        return get_cpp_compiler()
    except InvalidCxxCompiler:
        return None


def _processor() -> str:
    lines = _CPU_INFO.read_text().splitlines() if _CPU_INFO.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = models[0] if models else platform.processor() or platform.machine()
    return f"{name} with {torch.backends.cpu.get_cpu_capability()}"
