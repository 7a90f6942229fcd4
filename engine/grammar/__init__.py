"""What a reply may be: constraints, compiled, and where each text stands in its own.

    vocabulary    what tokens are as bytes
    formats       from a constraint to one language, xgrammar's structural tags
    limits        what is not worth compiling, and what could not be kept
    grammars      compiles beside the decoding, and remembers
    matcher       one text's place: which tokens may follow, and where only one may

The masks are xgrammar's (Dong et al., arXiv 2411.15100); only this room knows it, and imports it
where it is first needed: it brings pydantic along, which an engine can do without.
"""

from engine.grammar.grammars import Grammars
from engine.grammar.matcher import Following, Matcher, forbid
from engine.grammar.vocabulary import Vocabulary

__all__ = ["Following", "Grammars", "Matcher", "Vocabulary", "forbid"]
