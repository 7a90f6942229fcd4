"""Servers under several clients at once, over HTTP: tokens a second, and how long each one waits.

    python benchmarks/clients.py --prompts FILE.jsonl --clients 1,2,4,8 \\
        --server "ours=stagetree serve FOLDER --port {port}" \\
        --server "theirs=llama-server -m FILE.gguf -c 8192 -np 8 --port {port}"

Each server is started once, by its command, and asked through the real `openai` client, streamed.
`--engine model=FOLDER,max_running=8` asks the engine alone, too, in this process, with the settings
of `stagetree serve`: what HTTP costs is the difference.
With each number of clients rounds of all servers alternate. In a `closed` loop so many clients ask
one thing after another; with `--rate R` requests come by chance (Poisson), R a second, however many
are still running. Then come scenes, which `--scenes` names:

- `editor`: two long replies and a prompt of 2,000 tokens, and a short completion meanwhile, beside
  the time that it may take at most;
- `again`: prompts A, B, A, alone and with another client between: the third should be known.

Times are milliseconds: to the first token (TTFT), and between chunks of a reply (ITL); a chunk of
ours may hold several tokens. Needs `openai` and what the commands name.
"""

import argparse
import asyncio
import json
import math
import random
import shlex
import socket
import statistics
import subprocess
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import openai

_READY_SECONDS = 600


@dataclass(slots=True)
class Reply:
    """When a reply's chunks came, by the clock, and how many tokens it had."""

    asked: float
    chunks: list[float] = field(default_factory=list)
    num_tokens: int = 0
    num_cached: int = 0

    def take(self, chunk: Mapping[str, Any], now: float) -> None:
        """A chunk has come."""
        if any(choice["text"] for choice in chunk.get("choices", ())):
            self.chunks.append(now)
        if usage := chunk.get("usage"):
            self.num_tokens = usage["completion_tokens"]
            self.num_cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0

    @property
    def first(self) -> float:
        """Milliseconds to the first token."""
        return (self.chunks[0] - self.asked) * 1e3

    @property
    def gaps(self) -> list[float]:
        """Milliseconds between chunks."""
        return self.gaps_until(math.inf)

    def gaps_until(self, moment: float) -> list[float]:
        """Those between chunks that had come by then."""
        pairs = zip(self.chunks, self.chunks[1:], strict=False)
        return [(later - earlier) * 1e3 for earlier, later in pairs if later <= moment]


class Asked(Protocol):
    """What can be asked for replies; its name is that in the table."""

    @property
    def name(self) -> str:
        """Its name."""

    async def ask(self, prompt: str, num_tokens: int) -> Reply:
        """One reply, to its end."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs: its name in the table, and a client of it."""

    name: str
    client: openai.AsyncOpenAI
    model: str

    async def ask(self, prompt: str, num_tokens: int) -> Reply:
        """One reply, streamed to its end.

        Its lines are read as they are: what a client makes of each costs as much of the same
        processors as what a server does.
        """
        reply, completions = Reply(time.perf_counter()), self.client.completions
        asked = completions.with_streaming_response.create(
            model=self.model,
            prompt=prompt,
            max_tokens=num_tokens,
            temperature=0.0,
            seed=1,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        )
        async with asked as stream:
            async for line in stream.iter_lines():
                if line.startswith("data: {"):
                    reply.take(json.loads(line.removeprefix("data: ")), time.perf_counter())
        reply.num_tokens = reply.num_tokens or len(reply.chunks)
        if not reply.chunks:
            raise SystemExit(f"{self.name} answered without a token")
        return reply


class InProcess:
    """The engine of a server's settings in this process: what there is of it without HTTP."""

    def __init__(self, name: str, settings: Mapping[str, object]) -> None:
        from engine.api import Engine  # torch is for who asks for it
        from engine.tokenizer import load_tokenizer
        from server.sources import load_settings

        config = load_settings(None, settings).command_config(compile="wait")
        self.name = name
        self._engine = Engine.load(config)
        self._encode = load_tokenizer(config.model).encode
        self._replies: dict[str, tuple[Reply, asyncio.Event]] = {}
        self._steps: asyncio.Task[None] | None = None

    async def ask(self, prompt: str, num_tokens: int) -> Reply:
        """One reply, to its end."""
        from engine import GenerateRequest, SamplingParams

        reply, is_over = Reply(time.perf_counter()), asyncio.Event()
        name, ids = f"{id(reply)}", tuple(self._encode(prompt))
        self._replies[name] = reply, is_over
        request = GenerateRequest(name, ids, num_tokens, SamplingParams(0.0), ignore_eos=True)
        self._engine.add(request)
        if self._steps is None or self._steps.done():
            self._steps = asyncio.create_task(self._step())
        await is_over.wait()
        return self._replies.pop(name)[0]

    async def _step(self) -> None:
        while self._engine.is_busy:
            for event in self._engine.step():
                reply, is_over = self._replies[event.request_id]
                if tokens := getattr(event, "tokens", ()):
                    reply.chunks.append(time.perf_counter())
                    reply.num_tokens += len(tokens)
                else:
                    is_over.set()
            await asyncio.sleep(0)


@dataclass(frozen=True, slots=True)
class Load:
    """What a server made of so many clients, or of so many requests a second."""

    server: str
    clients: str
    rate: float
    quartiles: tuple[float, float]
    first: tuple[float, float]
    between: tuple[float, float]


@asynccontextmanager
async def started(command: str, name: str, log: Path) -> AsyncIterator[Server]:
    """The server of a command, once it answers with its model; its output goes to `log`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with log.open("w") as output:
        arguments = shlex.split(command.replace("{port}", str(port)))
        process = subprocess.Popen(arguments, stdout=output, stderr=subprocess.STDOUT)
    client = openai.AsyncOpenAI(
        base_url=f"http://127.0.0.1:{port}/v1", api_key="-", max_retries=3, timeout=_READY_SECONDS
    )
    try:
        end = time.monotonic() + _READY_SECONDS
        while True:
            try:
                model = (await client.models.list()).data[0].id
                await client.completions.create(model=model, prompt="Hello", max_tokens=1)
                break
            except openai.OpenAIError:
                if process.poll() is not None or time.monotonic() > end:
                    raise SystemExit(f"{name} did not start: see {log}") from None
                await asyncio.sleep(0.5)
        yield Server(name, client, model)
    finally:
        await client.close()
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


async def closed(
    server: Asked, prompts: Sequence[str], num_clients: int, num_tokens: int
) -> list[Reply]:
    """So many clients, each of which asks for its share of the prompts, one after another."""

    async def client(share: Sequence[str]) -> list[Reply]:
        return [await server.ask(prompt, num_tokens) for prompt in share]

    shares = [prompts[place::num_clients] for place in range(num_clients)]
    return [reply for replies in await asyncio.gather(*map(client, shares)) for reply in replies]


async def by_chance(
    server: Asked, prompts: Sequence[str], rate: float, num_tokens: int, seed: int
) -> list[Reply]:
    """The prompts at times of a Poisson process, the same ones for every server."""
    chance, tasks = random.Random(seed), []
    for prompt in prompts:
        tasks.append(asyncio.create_task(server.ask(prompt, num_tokens)))
        await asyncio.sleep(chance.expovariate(rate))
    return [await task for task in tasks]


def tokens_a_second(replies: Sequence[Reply]) -> float:
    """Of all of them, from the first request to the last token."""
    begun, ended = min(r.asked for r in replies), max(r.chunks[-1] for r in replies)
    return sum(reply.num_tokens for reply in replies) / (ended - begun)


def percentiles(values: Iterable[float]) -> tuple[float, float]:
    """The median, and what one in a hundred exceeds."""
    ordered = sorted(values) or [0.0]
    return statistics.median(ordered), ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]


def load_of(server: Asked, clients: str, rounds: Sequence[Sequence[Reply]]) -> Load:
    """The figures of all rounds of one server: medians, and quartiles of the speed."""
    rates = sorted(map(tokens_a_second, rounds))
    replies = [reply for each in rounds for reply in each]
    return Load(
        server.name,
        clients,
        statistics.median(rates),
        (rates[len(rates) // 4], rates[-1 - len(rates) // 4]),
        percentiles(reply.first for reply in replies),
        percentiles(gap for reply in replies for gap in reply.gaps),
    )


async def loads(
    servers: Sequence[Asked], prompts: Sequence[str], arguments: argparse.Namespace
) -> AsyncIterator[Load]:
    """Every number of clients, and chance arrivals; rounds of all servers alternate."""
    kinds = [(str(number), number) for number in arguments.clients]
    kinds += [(f"{rate:g}/s", -rate) for rate in arguments.rate]
    for name, kind in kinds:
        found: dict[str, list[list[Reply]]] = {}
        for number in range(arguments.rounds + 1):
            count = max(2 * kind, 4) if kind > 0 else arguments.requests
            chosen = [prompts[(number * count + i) % len(prompts)] for i in range(count)]
            for server in servers[:: 1 if number % 2 else -1]:
                if kind > 0:
                    replies = await closed(server, chosen, kind, arguments.tokens)
                else:
                    replies = await by_chance(server, chosen, -kind, arguments.tokens, number)
                if number:  # the first round warms up
                    found.setdefault(server.name, []).append(replies)
        for server in servers:
            yield load_of(server, name, found[server.name])


def long_prompt(prompts: Sequence[str], num_characters: int, first: int) -> str:
    """Prompts one behind the other, from the one at `first` on."""
    ordered = [*prompts[first:], *prompts[:first]]
    text = "\n".join(ordered * (num_characters // max(1, sum(map(len, ordered))) + 1))
    return f"# {first}\n{text[:num_characters]}"


async def editor(
    server: Asked, prompts: Sequence[str], arguments: argparse.Namespace
) -> Mapping[str, float]:
    """A short completion beside two long replies and a long prompt that is being read.

    Its bound is made of what this server has just shown: its own chunks are read in the time that
    it takes alone, somebody else's for as long as the server's setting says, and three steps are as
    long as those of the two replies alone.
    """
    alone = [(await server.ask(prompt, 8)).first for prompt in prompts[:5]]
    long_replies = [asyncio.create_task(server.ask(prompt, 400)) for prompt in prompts[5:7]]
    await asyncio.sleep(1)
    replies, quiet_until, firsts = [*long_replies], time.perf_counter(), []
    for number in range(arguments.short):
        document = long_prompt(prompts, arguments.length, number)
        reading = asyncio.create_task(server.ask(document, 1))
        await asyncio.sleep(0.05)
        firsts.append((await server.ask(prompts[(7 + number) % len(prompts)], 8)).first)
        await reading
        for place, task in enumerate(long_replies):
            if task.done():
                again = asyncio.create_task(server.ask(prompts[number % 5], 400))
                long_replies[place] = again
                replies.append(again)
    told = [await task for task in replies]
    step, _ = percentiles(gap for reply in told for gap in reply.gaps_until(quiet_until))
    bound = max(alone) + arguments.stall + 3 * step
    median, most = percentiles(firsts)
    return {
        "TTFT alone": statistics.median(alone),
        "a step": step,
        "TTFT p50": median,
        "TTFT p99": most,
        "its bound": bound,
        "share within": sum(first <= bound for first in firsts) / len(firsts),
        "ITL p99 of the long replies": percentiles(gap for reply in told for gap in reply.gaps)[1],
    }


async def again(
    server: Asked, prompts: Sequence[str], arguments: argparse.Namespace
) -> Mapping[str, float]:
    """A, B, A: the first and the third, in milliseconds and as a ratio; then with company."""
    told: dict[str, float] = {}
    for name, company in (("alone", False), ("in company", True)):
        ratios, firsts = [], []
        for number in range(5):
            places = [(17 * number + shift + 7 * company) % len(prompts) for shift in (1, 9)]
            first, second = (long_prompt(prompts, arguments.length, place) for place in places)
            begun = await server.ask(first, 8)
            others = [server.ask(second, 8)]
            if company:
                others.append(server.ask(prompts[number], 64))
            await asyncio.gather(*others)
            last = await server.ask(first, 8)
            firsts.append(begun.first)
            ratios.append(last.first / begun.first)
        told |= {f"first, {name}": statistics.median(firsts)}
        told |= {f"third / first, {name}": statistics.median(ratios)}
    return told


SCENES = {"editor": editor, "again": again}


async def main() -> None:
    """Start the servers, measure, print a line for each, and keep all if a file is named."""
    arguments = parse()
    lines = arguments.prompts.read_text().splitlines()
    documents = [json.loads(line) for line in lines][: arguments.num_prompts]
    prompts = [each.get("prompt") or each["turns"][0] for each in documents]
    prompts = [prompt[-arguments.characters :] for prompt in prompts]
    told: list[object] = []
    named = [each.partition("=")[::2] for each in arguments.server]
    async with AsyncExitStack() as running:
        servers: list[Asked] = [
            await running.enter_async_context(
                started(command, name, arguments.logs / f"{name}.log")
            )
            for name, command in named
        ]
        if arguments.engine:
            pairs = (each.partition("=")[::2] for each in arguments.engine.split(","))
            servers.append(InProcess("engine", dict(pairs)))
        async for load in loads(servers, prompts, arguments):
            told.append(asdict(load))
            print(
                f"{load.clients:>6} clients  {load.server:16} {load.rate:7.0f} tokens/s "
                f"({load.quartiles[0]:.0f}-{load.quartiles[1]:.0f})  "
                f"TTFT {load.first[0]:.0f}, p99 {load.first[1]:.0f} ms  "
                f"ITL {load.between[0]:.1f}, p99 {load.between[1]:.1f} ms",
                flush=True,
            )
        for name in arguments.scenes:
            for server in servers:
                figures = await SCENES[name](server, prompts, arguments)
                told.append({"scene": name, "server": server.name, **figures})
                said = ", ".join(f"{key} {value:.2f}" for key, value in figures.items())
                print(f"{name}: {server.name:16} {said}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(told, indent=2) + "\n")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, or `arguments`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--prompts", type=Path, required=True, help='JSON lines with a "prompt"')
    add("--server", action="append", default=[], metavar="NAME=COMMAND")
    add("--engine", metavar="model=NAME,dtype=...", help="the engine alone, of such settings")
    add("--clients", type=_numbers, default=[1, 2, 4, 8])
    add("--rate", type=float, nargs="*", default=[], help="requests a second, by chance")
    add("--requests", type=int, default=24, help="of each round that comes by chance")
    add("--rounds", type=int, default=5)
    add("--tokens", type=int, default=64, help="of each reply")
    add("--num-prompts", type=int, default=64)
    add("--characters", type=int, default=800, help="of each prompt, its last ones")
    add("--scenes", nargs="*", choices=list(SCENES), default=[])
    add("--length", type=int, default=4500, help="characters of the scenes' long prompts")
    add("--short", type=int, default=20, help="short completions of the scene `editor`")
    add("--stall", type=float, default=100, help="the server's prefill_stall_ms")
    add("--logs", type=Path, default=Path("."), help="a folder for what the servers print")
    add("--json", type=Path)
    return parser.parse_args(arguments)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


if __name__ == "__main__":
    asyncio.run(main())
