"""A whole engine over captured passes: on a GPU by real graphs, and on a CPU by running again.

What is asked of it is the same in both places, so that the questions themselves are tested here.
"""

import asyncio
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine import acceleration, attention
from engine.api import Engine
from engine.benchmark.ties import gap, rounding
from engine.config import EngineConfig, ModelStageConfig, NgramStageConfig
from engine.request import Finished, GenerateRequest, Output, SamplingParams, Speculation
from engine.sampling import Sampling
from tests.checkpoints import VOCAB_SIZE, save_checkpoint
from tests.engine.filters import chosen
from tests.engine.setups import random_request, token_ids
from tests.engine.test_captured import again

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
NUM_TEXTS = {"cpu": 10, "cuda": 40}
"""On a CPU the passes are those of `test_captured.py`; the questions need few texts."""


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where to run; on a CPU too what is captured decides."""
    if request.param == "cpu":
        monkeypatch.setattr(attention, "has_gpu_kernel", lambda: False)
        monkeypatch.setattr(
            "engine.api.accelerate",
            lambda config, scorers, _: acceleration.OnGpu(config, scorers, again),
        )
    return str(request.param)


def load(folder: Path, device: str, dtype: str) -> Engine:
    """A target and a draft that is often right, since it is the target in another precision."""
    target = save_checkpoint(folder / "target")
    draft = ModelStageConfig(model=str(target), budget=12, passes=3, width=4, children=3)
    engine = Engine.load(
        EngineConfig(
            str(target),
            stages=(draft, NgramStageConfig(budget=6, children=3)),
            dtype=dtype,
            device=device,
            # On a CPU `test_captured.py` has what is fused first, by a compiler that does nothing.
            compile="background" if device == "cuda" else "cached",
            cache_dir=str(folder),
        )
    )
    while engine.refresh().is_compiling:
        pass
    assert set(engine.info.passes.values()) == {"captured"}
    return engine


def decode(
    engine: Engine, request: GenerateRequest, speculation: Speculation
) -> tuple[list[Output], Finished]:
    *steps, finished = engine.generate(replace(request, speculation=speculation))
    assert isinstance(finished, Finished)
    return [step for step in steps if isinstance(step, Output)], finished


def test_in_float32_no_text_changes(device: str, tmp_path: Path) -> None:
    """Red when a graph keeps anything of an earlier pass, or the kernel of another row."""
    engine = load(tmp_path, device, "float32")
    rng = random.Random(5)
    num_accepted = num_rejected = 0
    for _ in range(NUM_TEXTS[device]):
        request = random_request(rng)
        plain, _ = decode(engine, request, "off")
        for speculation in ("always", "auto"):
            steps, finished = decode(engine, request, speculation)
            assert token_ids(steps) == token_ids(plain)
            num_accepted += finished.stats.num_accepted_drafts
            num_rejected += finished.stats.num_draft_tokens - finished.stats.num_accepted_drafts
    assert min(num_accepted, num_rejected) > 2 * NUM_TEXTS[device]


@pytest.mark.parametrize("dtype", ["bfloat16", "int8", "int4"])
def test_where_inputs_are_rounded_texts_part_at_near_ties_alone(
    device: str, tmp_path: Path, dtype: str
) -> None:
    """Red when captured passes are wrong by more than rounding.

    Without filters: a token at a filter's edge is in or out by rounding too, whatever its score.
    """
    engine = load(tmp_path, device, dtype)
    rng = random.Random(6)
    prompts = [[rng.randrange(VOCAB_SIZE) for _ in range(20)] for _ in range(20)]
    worst = max(*rounding(engine.scorers["target"], prompts), torch.finfo(torch.bfloat16).eps)
    for _ in range(NUM_TEXTS[device]):
        request = random_request(rng)
        sampling = replace(request.sampling, top_k=0, top_p=1.0, min_p=0.0)
        request = replace(request, sampling=sampling, num_logprobs=None)
        off, on = (
            token_ids(decode(engine, request, speculation)[0]) for speculation in ("off", "always")
        )
        for place, (plain, other) in enumerate(zip(off, on, strict=False)):
            if plain != other:
                scale = max(1.0, 1 / (request.sampling.temperature or 1.0))
                assert abs(gap(engine, request, off[:place], plain, other)) <= 4 * scale * worst
                break


@pytest.mark.gpu
@pytest.mark.parametrize("params", [SamplingParams(1.0, seed=-5), SamplingParams(0.8, top_k=9)])
def test_a_gpu_chooses_what_the_host_would(params: SamplingParams) -> None:
    """Red when the noise that a GPU makes for itself is another."""
    logits, positions = torch.randn(30, 5000), list(range(7, 37))
    host, there = (Sampling(params, 5000, device) for device in ("cpu", "cuda"))
    assert chosen(there, logits.cuda(), positions) == chosen(host, logits, positions)


@pytest.mark.gpu
def test_two_thousand_steps_of_changing_widths_keep_their_memory(tmp_path: Path) -> None:
    engine = load(tmp_path, "cuda", "float32")
    rng, num_steps, used = random.Random(7), 0, []
    while num_steps < 2000:
        steps, _ = decode(engine, random_request(rng, max_tokens=60), "always")
        num_steps += len(steps)
        used.append(torch.cuda.memory_allocated())
    assert used[-1] <= max(used[: len(used) // 4])


@pytest.mark.gpu
def test_a_closed_engine_process_gives_its_memory_back(tmp_path: Path) -> None:
    pytest.importorskip("zmq")
    from engine import EngineProcess

    target = save_checkpoint(tmp_path / "target")
    request = GenerateRequest("r", (1, 2, 3), 10)

    async def serve() -> None:
        config = EngineConfig(str(target), dtype="float32", device="cuda", cache_dir=str(tmp_path))
        process = EngineProcess(config)
        await process.start()
        try:
            await process.wait_ready()
            assert [item async for item in process.generate(request)]
            assert torch.cuda.mem_get_info()[0] < free
        finally:
            await process.close()

    torch.cuda.init()
    if torch.cuda.list_gpu_processes().count("process") > 1:
        pytest.skip("others use this GPU's memory")
    free, _ = torch.cuda.mem_get_info()
    asyncio.run(asyncio.wait_for(serve(), 120))
    assert torch.cuda.mem_get_info()[0] >= free - 2**20
