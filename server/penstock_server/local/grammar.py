"""Holding an answer to a form by masks over the vocabulary, computed by llguidance.

`Grammar` knows one model's vocabulary and compiles forms; the `Constraint` that comes of it
belongs to one answer. What a request's form is, is ``shaping``'s to know.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from penstock import v1

from penstock_server.errors import Failure, Violation
from penstock_server.local.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher

    from penstock_server.local.constraint import Row

_NO_SPACE: Any = {"whitespace_flexible": False}
"""Models that may write white space between JSON's tokens are known to write it forever."""

# What llguidance says of a schema that is wrong in itself; of all else that it does not take, it
# says that it lacks it.
_WRONG = re.compile(r"[Uu]nsatisfiable|Pointer .* does not exist")


class Grammar:
    """Compiles forms for one model.

    ``vocabulary`` is the number of the model's scores (0: the tokenizer's), ``end`` the token
    ids that end an answer. Takes about a second for a large vocabulary, and raises
    UNSUPPORTED_FEATURE where the vocabulary cannot be read. Not for an engine's thread.

    Example::

        grammar = Grammar(tokenizer, 32_000, {2})
        constraint = grammar.constraint("start: " + grammar.json({"type": "object"}))
    """

    def __init__(self, tokenizer: Tokenizer, vocabulary: int, end: Collection[int]) -> None:
        try:
            # Not at the module's top: sidecars bring it, and it takes its time.
            from llguidance.hf import from_tokenizer

            fast: Any = tokenizer.transformers
            size = max(vocabulary, len(fast))
            self._vocabulary = from_tokenizer(
                fast, n_vocab=size, eos_token=sorted(end) or None, slices=None
            )
        except Exception as error:  # llguidance raises what it likes
            raise Failure.unsupported(
                "response_format",
                "this model's vocabulary cannot be used to hold answers to a form: "
                f"{_brief(error)}",
            ) from error
        self._tokenizer = tokenizer
        self._words = (size + 31) // 32

    def check_schema(self, schema: Mapping[str, Any], field: str) -> None:
        """Raise INVALID_REQUEST or UNSUPPORTED_FEATURE where a schema cannot be held to."""
        from llguidance import LLMatcher

        try:
            written = LLMatcher.grammar_from_json_schema(dict(schema), overrides=_NO_SPACE)
            problem = LLMatcher.validate_grammar(written, self._vocabulary)
        except Exception as error:
            problem = str(error)
        if not problem:
            return
        brief = _brief(problem)
        if _WRONG.search(problem):
            raise Failure.invalid([Violation(field, f"no answer can be held to it: {brief}")])
        raise Failure.unsupported(
            field,
            f"{field}: local models cannot be held to this schema: {brief}. Say it with other "
            "keywords, or in the prompt",
        )

    def json(self, schema: Mapping[str, Any]) -> str:
        """A JSON value that is valid for a schema, as a term of a grammar."""
        return f"%json {json.dumps({**schema, 'x-guidance': _NO_SPACE})}"

    def literal(self, text: str) -> str:
        """A text as a term; what is one token for the model, such as a marker, is that token."""
        token = self._tokenizer.token(text)
        if token is not None and self._vocabulary.is_special_token(token):
            return f"<[{token}]>"
        return json.dumps(text)

    def is_token(self, text: str) -> bool:
        """Whether `literal` makes a token of it."""
        return self.literal(text).startswith("<")

    def constraint(self, rules: str) -> MaskConstraint:
        """The constraint for a grammar in llguidance's kind of Lark, made of the terms above.

        Raises UNSUPPORTED_FEATURE where it is too complex.
        """
        from llguidance import LLMatcher

        written = LLMatcher.grammar_from_lark(f"%llguidance {{}}\n{rules}\n")
        matcher = LLMatcher(self._vocabulary, written, log_level=0)
        if matcher.is_error():
            raise Failure.unsupported(
                "response_format",
                f"local models cannot be held to this form: {_brief(matcher.get_error())}",
            )
        return MaskConstraint(matcher, self._words)


class MaskConstraint:
    """Holds one answer to a compiled form. A `Constraint`."""

    def __init__(self, matcher: LLMatcher, words: int) -> None:
        self._matcher = matcher
        self._words = words
        self._own: Row | None = None  # where the caller's rows are of another length
        self.finished = False
        """See `Constraint.finished`."""

    def fill(self, row: Row) -> bool:
        """See `Constraint.fill`."""
        if row.size == self._words:
            self._compute(row)
        else:
            if self._own is None:
                import numpy as np

                self._own = np.zeros(self._words, np.int32)
            self._compute(self._own)
            shared = min(row.size, self._words)
            row[:shared] = self._own[:shared]
            row[shared:] = 0
        return True

    def accept(self, token: int) -> None:
        """See `Constraint.accept`."""
        if not self._matcher.consume_token(token):
            raise self._failure()
        self.finished = self._matcher.is_stopped()

    def _compute(self, row: Row) -> None:
        self._matcher.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)
        if self._matcher.is_error():
            raise self._failure()

    def _failure(self) -> Failure:
        return Failure(
            v1.ERROR_REASON_ENGINE_FAILURE,
            "the answer cannot be held to its form any further: "
            + _brief(self._matcher.get_error()),
        )


def _brief(error: object) -> str:
    return " ".join(str(error).split())[:300]
