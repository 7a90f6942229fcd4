"""Several clients at once: the real command, its real engine process, the real `openai` client."""

import asyncio
import json
import random
from contextlib import suppress

import pytest
from openai import AsyncOpenAI

from tests.server.command import NUM_SEATS, PROMPT, Command, run, stream_of, text_of


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


async def hang_up(command: Command, seed: int, seconds: float, is_abrupt: bool) -> int:
    """Ask for a long text over a connection of one's own, and hang up; returns the chunks read."""
    reader, writer = await asyncio.open_connection("127.0.0.1", command.port)
    body = {"prompt": PROMPT, "max_tokens": 400, "seed": seed, "stream": True, "ignore_eos": True}
    sent = json.dumps({**body, "n": 1 + seed % 2}).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(sent)}\r\n\r\n".encode() + sent)
    num_chunks = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while line := await reader.readline():
                num_chunks += line.startswith(b"data: {")
    if is_abrupt:
        writer.transport.abort()
    else:
        writer.close()
    return num_chunks


@pytest.mark.slow
def test_five_hundred_who_hang_up_at_random_moments_leave_nothing_behind(command: Command) -> None:
    """Red when a connection that is gone keeps its seat, its place in the queue, or its text."""
    chance = random.Random(7)
    doors = asyncio.Semaphore(40)

    async def call(seed: int) -> int:
        async with doors:
            return await hang_up(command, seed, chance.uniform(0, 0.5), chance.random() < 0.5)

    async def scenario(client: AsyncOpenAI) -> None:
        alone = await text_of(client, seed=1)
        before = await asyncio.to_thread(command.figures)
        num_read = sum(await asyncio.gather(*(call(seed) for seed in range(500))))
        assert await text_of(client, seed=1) == alone
        after = await asyncio.to_thread(command.figures)
        running, waiting = "vllm:num_requests_running", "vllm:num_requests_waiting"
        assert (after[running, ""], after[waiting, ""]) == (0, 0)
        written = "vllm:generation_tokens_total", ""
        assert num_read > 0 and after[written] - before[written] < 500 * 400 / 4
        # All seats are there, and each of them writes.
        texts = await asyncio.gather(*(text_of(client, seed=1) for _ in range(2 * NUM_SEATS)))
        assert set(texts) == {alone}

    run(command, scenario)
