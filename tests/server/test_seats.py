"""Several clients at once: the real command, its real engine process, the real `openai` client."""

import asyncio
import random

from openai import AsyncOpenAI

from tests.server.command import NUM_SEATS, Command, run, stream_of, text_of


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
