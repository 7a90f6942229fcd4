"""`stagetree serve` in a process of its own, over tiny random models, as its users run it."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
from openai import AsyncOpenAI
from prometheus_client.parser import text_string_to_metric_families

from tests.checkpoints import save_checkpoint
from tests.server.fakes import byte_level_tokenizer

COMMAND = [sys.executable, "-c", "from server.cli import app; app()"]
FLAGS = ["--dtype", "float32", "--threads", "1"]
NUM_SEATS = 4
"""Texts at once, where a test counts them."""
PROMPT = "def hello(world):\n    return world + 1\ndef hello("


def save_family(folder: Path) -> Path:
    """A target with a tokenizer, and a draft; returns their folder."""
    for seed, name in enumerate(("target", "draft")):
        save_checkpoint(folder / name, seed=seed, vocab_size=320, bos_token_id=0, eos_token_id=0)
    byte_level_tokenizer().inner.save(str(folder / "target" / "tokenizer.json"))
    return folder


class Command:
    """The command serving a model by its name, or a family's target by its folder."""

    def __init__(self, model: Path | str, *flags: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        name = model if isinstance(model, str) else str(model / "target")
        self.process = subprocess.Popen(
            [*COMMAND, "serve", name, *FLAGS, *flags, "--port", str(self.port)],
            env={**os.environ, "STAGETREE_SERVED_MODEL_NAME": "tiny"},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.model = name
        self.log: list[str] = []
        self._reader = threading.Thread(target=lambda: self.log.extend(self.process.stderr or ()))
        self._reader.start()
        self.client = openai.OpenAI(
            base_url=f"http://127.0.0.1:{self.port}/v1", api_key="none", max_retries=0
        )

    def answers(self) -> bool:
        try:
            self.client.models.list()
        except openai.APIConnectionError:
            return False
        return True

    def is_ready(self) -> bool:
        assert self.process.poll() is None, "".join(self.log)
        try:
            self.complete(max_tokens=1)
        except openai.APIError:
            return False
        return True

    def complete(self, **body: Any) -> Any:
        named = {"model": "tiny", "prompt": PROMPT, "max_tokens": 48, **body}
        return self.client.post("/completions", body=named, cast_to=object)

    def figures(self) -> dict[tuple[str, str], float]:
        """Every sample of /metrics by its name and stage."""
        url = f"http://127.0.0.1:{self.port}/metrics"
        with urllib.request.urlopen(url) as reply:
            families = list(text_string_to_metric_families(reply.read().decode()))
        samples = [sample for family in families for sample in family.samples]
        return {(one.name, one.labels.get("stage", "")): one.value for one in samples}

    def states(self) -> list[str]:
        """The state of each engine, as /ready has it."""
        try:
            reply = urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ready")
        except urllib.error.HTTPError as refusal:
            reply = refusal
        with reply:
            return [engine["status"] for engine in json.load(reply)["engines"]]

    def children(self) -> list[int]:
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]

    def engines(self) -> list[int]:
        """The children that have torch."""
        return [pid for pid in self.children() if "libtorch" in mapped(pid)]

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(timeout=20)
        self._reader.join()
        if self.process.stderr:
            self.process.stderr.close()
        self.client.close()
        return code


def mapped(pid: int) -> str:
    """The files that a process has mapped into its memory."""
    return Path(f"/proc/{pid}/maps").read_text()


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
