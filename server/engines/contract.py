"""What the server asks of an engine process; `engine.EngineProcess` keeps this contract."""

from collections.abc import AsyncGenerator
from typing import Protocol

from engine import (
    Constraint,
    GenerateRequest,
    LoadProgress,
    ModelInfo,
    TokenizerState,
    Update,
)


class Engine(Protocol):
    """A handle on one process, from its start to its end."""

    async def start(self) -> None:
        """Spawn the process and return while it loads."""

    @property
    def progress(self) -> LoadProgress:
        """How far loading has come."""

    @property
    def info(self) -> ModelInfo | None:
        """What is loaded, as last heard; None before it is ready."""

    async def wait_ready(self) -> ModelInfo:
        """Wait for the model; raises ModelLoadError or EngineDiedError."""

    async def read_tokenizer(self) -> TokenizerState:
        """The loaded model's tokenizer; raises ModelLoadError or EngineDiedError."""

    async def compile(self, constraint: Constraint) -> None:
        """Wait until requests may have it; raises InvalidRequestError or EngineDiedError."""

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Update]:
        """One sequence, step by step; closing the iterator cancels it and frees the engine."""

    async def wait_died(self) -> str:
        """Wait for the process to die or fall silent; returns why."""

    async def close(self) -> None:
        """End the process."""
