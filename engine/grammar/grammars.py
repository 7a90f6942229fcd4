"""Compiles constraints for one model's vocabulary, beside whoever decodes, and remembers them."""

import contextlib
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from functools import cached_property
from typing import TYPE_CHECKING

from engine.errors import EngineBusyError, EngineError, InvalidRequestError, first_line
from engine.grammar.formats import format_of, named_tokens
from engine.grammar.limits import check_source, is_too_large, name_of
from engine.grammar.matcher import Matcher
from engine.grammar.vocabulary import Vocabulary
from engine.request import Constraint

if TYPE_CHECKING:
    from xgrammar import CompiledGrammar, GrammarCompiler

_MOST_KEPT = 256
_MOST_BYTES = 2**28
"""Of all that is kept; an eighth of it is what one may take."""
_MOST_TEXT = 2**21
"""Characters of a grammar, as formats write it out."""
_MOST_AT_ONCE = 2
"""What takes too long cannot be stopped: it goes on, and so many at the most."""
_LOOKING_SECONDS = 0.05
_READING_SECONDS = 60.0
"""What a large tokenizer may take, before the first constraint of all."""


class Grammars:
    """The constraints of one model, compiled in threads: at most `seconds` each.

    `read` makes the vocabulary, once there is a constraint. What was compiled is kept, and so is
    why it was refused, until much else has been asked for since.
    """

    def __init__(self, read: Callable[[], Vocabulary], seconds: float = 10.0) -> None:
        self._read, self._seconds = read, seconds
        self._known: OrderedDict[Constraint, _Compilation] = OrderedDict()
        self._reading = threading.Lock()
        self._slots = threading.Semaphore(_MOST_AT_ONCE)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The model's; raises InvalidRequestError where there is none."""
        try:
            with self._reading:
                return self._read()
        except EngineError as error:
            raise InvalidRequestError(f"constraints need the model's tokenizer: {error}") from error

    @cached_property
    def _compiler(self) -> "GrammarCompiler":
        from xgrammar import GrammarCompiler

        return GrammarCompiler(self.vocabulary.info, max_threads=1, cache_enabled=False)

    def begin(self, constraint: Constraint) -> bool:
        """Have a constraint compiled; whether `compiled` can tell by now what came of it."""
        known = self._known.get(constraint)
        if known is None:
            if is_too_large(constraint):
                return True  # nor is it kept
            known = self._known[constraint] = _Compilation(_READING_SECONDS)
            threading.Thread(target=self._compile, args=(constraint, known), daemon=True).start()
        self._known.move_to_end(constraint)
        return known.is_over

    def compiled(self, constraint: Constraint) -> "CompiledGrammar":
        """A constraint as a grammar, waited for if need be.

        Raises InvalidRequestError for one that cannot be kept, EngineBusyError where nobody knows
        yet whether it could be.
        """
        if constraint not in self._known:  # or it has been looked at
            check_source(constraint)
        self.begin(constraint)
        known = self._known[constraint]
        try:
            return known.wait()
        except TimeoutError:
            raise InvalidRequestError(
                f"the {name_of(constraint)} takes more than {self._seconds:g} s to compile: send a "
                "simpler one."
            ) from None
        except EngineBusyError:
            del self._known[constraint]
            raise
        finally:
            self._forget()

    def matcher(self, constraint: Constraint, stop_ids: frozenset[int], num_prompt: int) -> Matcher:
        """The place of a text that has only a prompt. Raises as `compiled` does."""
        compiled, named = self.compiled(constraint), named_tokens(constraint)
        return Matcher(compiled, self.vocabulary, stop_ids, num_prompt, named)

    def _compile(self, constraint: Constraint, found: "_Compilation") -> None:
        """The work of a thread for which nobody waits at the end."""
        try:
            compiler = self._compiler
            if not self._slots.acquire(timeout=self._seconds):
                raise EngineBusyError("others' constraints are being compiled: try again.")
            try:
                found.expect(self._seconds)
                compiled = compiler.compile_structural_tag(_tag_of(constraint))
            finally:
                self._slots.release()
            self._check(constraint, compiled)
            found.size = int(compiled.memory_size_bytes)
            found.set_result(compiled)
        except (InvalidRequestError, EngineBusyError) as error:
            found.set_exception(error)
        except Exception as error:  # whatever a library may say of somebody's grammar
            told = f"the {name_of(constraint)} cannot be compiled: {_said(error)}."
            found.set_exception(InvalidRequestError(told))

    def _check(self, constraint: Constraint, compiled: "CompiledGrammar") -> None:
        """Raise InvalidRequestError for what is too large, or leaves nothing to write."""
        if (size := compiled.memory_size_bytes) > _MOST_BYTES // 8:
            raise InvalidRequestError(
                f"the {name_of(constraint)} takes {size >> 20} MiB, and {_MOST_BYTES >> 23} are "
                "the most: send a simpler one."
            )
        named = named_tokens(constraint)
        [start] = Matcher(compiled, self.vocabulary, named=named).following((), [()])
        if start.end is not None:
            raise InvalidRequestError(
                f"the {name_of(constraint)} allows no text that this model can write."
            )

    def _forget(self) -> None:
        """Drop what was asked for longest ago, as far as there is too much."""
        while len(self._known) > _MOST_KEPT or self._size > _MOST_BYTES:
            self._known.popitem(last=False)

    @property
    def _size(self) -> int:
        return sum(each.size + len(it.source) for it, each in self._known.items())


class _Compilation(Future["CompiledGrammar"]):
    """What will have become of a constraint, if that takes so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.size = 0
        """In bytes; 0 of what was refused, or is not known."""
        self.expect(seconds)

    def expect(self, seconds: float) -> None:
        """From now on it takes so long at most."""
        self._until = time.monotonic() + seconds

    @property
    def is_over(self) -> bool:
        """Whether it is known, or has taken too long."""
        return self.done() or time.monotonic() > self._until

    def wait(self) -> "CompiledGrammar":
        """What came of it; raises TimeoutError where it takes too long."""
        while not self.is_over:
            with contextlib.suppress(TimeoutError):
                self.exception(_LOOKING_SECONDS)  # how long it may take is known later
        return self.result(0)


def _tag_of(constraint: Constraint) -> str:
    """A constraint as a structural tag; raises InvalidRequestError for one of too much text."""
    tag = json.dumps({"type": "structural_tag", "format": format_of(constraint)})
    if len(tag) > _MOST_TEXT:
        raise InvalidRequestError(
            f"the {name_of(constraint)} takes {len(tag)} characters when it is written out, and "
            f"{_MOST_TEXT} are the most: send a simpler one."
        )
    return tag


def _said(error: Exception) -> str:
    """What xgrammar says of a grammar, without where in its own code it did."""
    said = first_line(error)
    _, mark, rest = said.partition(": ")
    return rest if mark and said.startswith("[") else said
