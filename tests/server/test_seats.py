"""Several clients at once: the real command, its real engine process, the real `openai` client."""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from tests.server.command import PROMPT, Command, save_family
from tests.server.conftest import wait_until

NUM_SEATS = 4


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    folder = save_family(tmp_path_factory.mktemp("tiny"))
    flags = ("--draft", str(folder / "draft"), "--max-running", str(NUM_SEATS))
    command = Command(folder, *flags)
    wait_until(command.answers, seconds=60)
    wait_until(command.is_ready, seconds=120)
    yield command
    if command.process.poll() is None:
        command.stop(signal.SIGKILL)


@asynccontextmanager
async def client_of(command: Command) -> AsyncIterator[AsyncOpenAI]:
    base = f"http://127.0.0.1:{command.port}/v1"
    async with AsyncOpenAI(base_url=base, api_key="none", max_retries=0) as client:
        yield client


def run(command: Command, scenario: Callable[[AsyncOpenAI], Awaitable[None]]) -> None:
    async def with_client() -> None:
        async with client_of(command) as client:
            await asyncio.wait_for(scenario(client), 120)

    asyncio.run(with_client())


async def stream_of(client: AsyncOpenAI, **body: Any) -> Any:
    """A stream that has begun: its first token is there."""
    named = {"model": "tiny", "prompt": PROMPT, "max_tokens": 100, "temperature": 0.8, **body}
    return await client.completions.create(**named, stream=True, extra_body={"ignore_eos": True})


async def text_of(client: AsyncOpenAI, **body: Any) -> str:
    return "".join([chunk.choices[0].text async for chunk in await stream_of(client, **body)])


def test_streams_at_once_are_each_what_they_are_alone(command: Command) -> None:
    """Red when a neighbour changes a text, or more clients than seats are refused."""

    async def scenario(client: AsyncOpenAI) -> None:
        seeds = range(2 * NUM_SEATS)
        together = await asyncio.gather(*(text_of(client, seed=seed) for seed in seeds))
        assert together == [await text_of(client, seed=seed) for seed in seeds]
        assert len(set(together)) == len(together)

    run(command, scenario)
    figures = command.figures()
    assert figures["stagetree_step_texts_sum", ""] > figures["stagetree_step_texts_count", ""]


def test_the_choices_of_a_request_are_written_at_once(command: Command) -> None:
    """Red when one choice waits for another's end, or is another text for its company."""

    async def scenario(client: AsyncOpenAI) -> None:
        texts, seeds = [""] * NUM_SEATS, [0] * NUM_SEATS
        begun: set[int] = set()
        ended: list[int] = []
        async for chunk in await stream_of(client, seed=3, n=NUM_SEATS):
            choice = chunk.choices[0]
            texts[choice.index] += choice.text
            seeds[choice.index] = choice.model_extra["seed"]
            begun.add(choice.index)
            if choice.finish_reason is not None:
                assert begun == set(range(NUM_SEATS))
                ended.append(choice.index)
        assert sorted(ended) == sorted(begun)
        assert texts == [await text_of(client, seed=seed) for seed in seeds]

    run(command, scenario)


def test_a_request_is_served_after_fifty_were_cancelled_at_random_moments(
    command: Command,
) -> None:
    """Red when a cancelled request keeps its seat or its place in the queue."""
    chance = random.Random(5)

    async def scenario(client: AsyncOpenAI) -> None:
        alone = await text_of(client, seed=1)
        before = command.figures()["vllm:generation_tokens_total", ""]
        work = [
            asyncio.create_task(
                text_of(client, seed=seed, n=chance.choice((1, 1, 3)), max_tokens=400)
            )
            for seed in range(50)
        ]
        for task in chance.sample(work, len(work)):
            await asyncio.sleep(chance.uniform(0, 0.04))
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        assert await text_of(client, seed=1) == alone
        after = await asyncio.to_thread(command.figures)
        assert after["vllm:generation_tokens_total", ""] - before < 50 * 400 / 2
        running, waiting = "vllm:num_requests_running", "vllm:num_requests_waiting"
        assert (after[running, ""], after[waiting, ""]) == (0, 0)

    run(command, scenario)


def test_a_killed_engine_costs_what_ran_and_nothing_that_waited(command: Command) -> None:
    """Red when a crash takes the queue with it, or a prompt that was told nothing."""
    if not Path("/proc/self/task").exists():
        pytest.skip("needs /proc")

    async def scenario(client: AsyncOpenAI) -> None:
        alone = [await text_of(client, seed=seed, max_tokens=20) for seed in range(6)]
        running = [await stream_of(client, seed=9, max_tokens=450) for _ in range(NUM_SEATS)]
        waiting = [
            asyncio.create_task(text_of(client, seed=seed, max_tokens=20)) for seed in range(6)
        ]
        await asyncio.sleep(0.05)
        for pid in command.engines():
            os.kill(pid, signal.SIGKILL)
        for stream in running:
            with pytest.raises(openai.APIError, match="engine process ended"):
                async for _ in stream:
                    pass
        assert await asyncio.gather(*waiting) == alone

    run(command, scenario)
