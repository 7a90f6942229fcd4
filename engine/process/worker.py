"""The program of the engine process: load, then run requests until told to close."""

import atexit
import contextlib
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import zmq

from engine import program
from engine.config import EngineConfig
from engine.errors import EngineBusyError, InvalidRequestError, ModelLoadError, in_one_line
from engine.process.messages import (
    Beat,
    Cancel,
    Close,
    Compile,
    Compiled,
    Event,
    Failed,
    Generate,
    Loading,
    Order,
    ReadTokenizer,
    Ready,
    Stepped,
    TokenizerRead,
    Unloadable,
    decode_order,
    encode,
)
from engine.process.pulse import BEAT_SECONDS, Pulse
from engine.request import Finished, GenerateRequest, LoadProgress, Output, Update
from engine.stats import SpeculationStats

if TYPE_CHECKING:
    from engine.api import Engine

_DEAF_PEER_MS = 30_000
_COMPILING_SECONDS = 0.005
"""How long to listen, with nothing else to do, before looking what has been compiled."""
_PATIENCE_SECONDS = 30.0
"""How long compiled passes wait for a pause between requests before one is made for them."""
_HOLDING_SECONDS = 3.0
"""How long who comes may wait for that pause, again and again after as long a patience."""
_LONGEST_STEP_SECONDS = 120.0
"""A pass may be slow, but one that takes this long is taken for a hang."""
_LONGEST_WORK_SECONDS = 1800.0
"""So is taking passes over after this time, and loading that for so long has told of nothing new
and left the processor alone."""


def main() -> None:
    """The engine process: it is told on its standard input what to load and where to listen."""
    # A terminal or a supervisor signals the whole group; when to end is the server's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    config, address = pickle.load(sys.stdin.buffer)
    # Nobody would hear of a better end.
    program.end_with_parent(lambda: os.kill(os.getpid(), signal.SIGKILL))
    with zmq.Context() as context, context.socket(zmq.PAIR) as socket:
        socket.setsockopt(zmq.LINGER, 1000)
        socket.setsockopt(zmq.SNDTIMEO, _DEAF_PEER_MS)
        socket.connect(address)
        Worker(socket).run(config)
    # Torch's libraries take seconds to take themselves apart, and hold nothing but memory by now.
    atexit._run_exitfuncs()
    sys.stderr.flush()
    os._exit(0)


class Worker:
    """The other end of the pair, inside the engine process."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket
        self._orders: deque[Order] = deque()
        # Of those who come while a pause is made, or whose constraint is being compiled.
        self._held: dict[str, GenerateRequest | Compile] = {}
        self._requests: set[str] = set()
        # The pulse has a thread of its own.
        self._lock = threading.Lock()

    def run(self, config: EngineConfig) -> None:
        """Load and serve; an unexpected error ends the process, which its handle will see."""
        with Pulse(lambda: self._tell(Beat())) as pulse:
            pulse.expect_progress(_LONGEST_WORK_SECONDS)

            def tell(progress: LoadProgress) -> None:
                pulse.expect_progress(_LONGEST_WORK_SECONDS)
                self._tell(Loading(progress))

            try:
                from engine.api import Engine  # imports torch, which only this process may

                engine = Engine.load(config, tell)
            except Exception as error:
                self._tell(Unloadable(in_one_line(error), traceback.format_exc()))
                return
            self._serve(engine, config.model, pulse)

    def _serve(self, engine: "Engine", model: str, pulse: Pulse) -> None:
        """Run requests until told to close."""
        info = engine.info
        refreshed = time.monotonic()
        self._tell(Ready(info))
        while True:
            pulse.expect(_LONGEST_STEP_SECONDS)
            idle = _COMPILING_SECONDS if self._held else BEAT_SECONDS
            self._listen(0.0 if engine.is_busy else idle)
            age = time.monotonic() - refreshed
            # Those who wait are served first, but not for ever: faster passes are for them too.
            is_due = not self._orders or age > _PATIENCE_SECONDS
            if info.is_compiling and is_due and not engine.is_busy:
                pulse.expect(_LONGEST_WORK_SECONDS)
                info = engine.refresh()
                refreshed = time.monotonic()
                self._tell(Ready(info))
            holds = info.is_compiling and engine.is_busy and _makes_pause(age)
            while self._orders:
                match self._orders.popleft():
                    case Generate(request):
                        self._held[request.request_id] = request
                    case Compile() as order:
                        self._held[order.request_id] = order
                    case Cancel(request_id):
                        self._cancel(engine, request_id)
                    case ReadTokenizer():
                        self._read_tokenizer(model)
                    case Close():
                        return
            for each in [*self._held.values()]:
                # Asked of each in its turn: what one has let go must be compiled for the next.
                if _is_ready(engine, each, holds):
                    self._begin(engine, self._held.pop(each.request_id))
            self._step(engine)

    def _begin(self, engine: "Engine", held: GenerateRequest | Compile) -> None:
        try:
            if isinstance(held, Compile):
                engine.grammars.compiled(held.constraint)
                self._tell(Compiled(held.request_id))
            else:
                engine.add(held)
                self._requests.add(held.request_id)
        except InvalidRequestError as error:
            self._tell(Failed(held.request_id, str(error), "invalid"))
        except EngineBusyError as error:
            self._tell(Failed(held.request_id, str(error), "busy"))

    def _cancel(self, engine: "Engine", request_id: str) -> None:
        if self._held.pop(request_id, None) is None:
            engine.cancel(request_id)
        else:
            end = Finished(request_id, "cancelled", SpeculationStats())
            self._tell(Stepped((Update(request_id, None, end),)))

    def _step(self, engine: "Engine") -> None:
        try:
            if told := engine.step():
                updates = updates_of(told)
                self._tell(Stepped(updates))
                for update in updates:
                    if update.finished is not None:
                        self._requests.remove(update.request_id)
        except Exception as error:
            message = f"the engine failed: {type(error).__name__}: {error}"
            for request_id in self._requests:
                self._tell(Failed(request_id, message, "broken"))
            raise

    def _read_tokenizer(self, model: str) -> None:
        from engine.tokenizer import read_tokenizer

        try:
            told = TokenizerRead(read_tokenizer(model))
        except ModelLoadError as error:
            told = TokenizerRead(None, str(error))
        self._tell(told)

    def _listen(self, seconds: float) -> None:
        """Take in what has been said; who waits for it shows that we are alive."""
        with self._lock:
            if self._socket.poll(int(seconds * 1000)):
                with contextlib.suppress(zmq.Again):
                    while True:
                        self._orders.append(decode_order(self._socket.recv(zmq.NOBLOCK)))
        if seconds:
            self._tell(Beat())

    def _tell(self, event: Event) -> None:
        with self._lock:
            self._socket.send(encode(event))


def _is_ready(engine: "Engine", held: GenerateRequest | Compile, holds: bool) -> bool:
    """Whether one of those who wait can begin; if its constraint is not compiled yet, it will be.

    Who only asks about a constraint need not wait for the pause that holds the others.
    """
    constraint = held.constraint
    is_free = isinstance(held, Compile) or not holds
    return (constraint is None or engine.grammars.begin(constraint)) and is_free


def _makes_pause(age: float) -> bool:
    """Whether who comes is to wait a little, so that passes of this age may be changed over."""
    return age > _PATIENCE_SECONDS and age % _PATIENCE_SECONDS < _HOLDING_SECONDS


def updates_of(told: Sequence[Output | Finished]) -> tuple[Update, ...]:
    """What a step has told, by request: an output stands before its end."""
    updates: dict[str, Update] = {}
    for each in told:
        if isinstance(each, Output):
            updates[each.request_id] = Update(each.request_id, each)
        else:
            known = updates.get(each.request_id)
            output = known.output if known else None
            updates[each.request_id] = Update(each.request_id, output, each)
    return tuple(updates.values())
