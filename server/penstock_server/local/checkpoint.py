"""A model's files, as every sidecar sees them: where they are, and why they cannot be loaded.

What reads them, and into what, is the sidecar's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from penstock import v1

from penstock_server.errors import Failure

_CONTEXT_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
"""What configurations call the context's length; a state-space model has none."""

_MISSING = v1.ERROR_REASON_MODEL_NOT_FOUND
_UNAVAILABLE = v1.ERROR_REASON_SIDECAR_UNAVAILABLE


def resolve(name: str) -> tuple[str, bool]:
    """What is to be read, and whether it is a directory of this machine; else it is a hub id.

    Raises MODEL_NOT_FOUND where it can be no hub id, but is no directory that holds a model
    either.

    Example: ``resolve("~/llama")`` → ``("/home/me/llama", True)``.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise Failure(_MISSING, f"{name} holds no model: there is no config.json in it")
        return str(path), True
    if name.startswith((".", "/", "~")) or path.exists():
        raise Failure(_MISSING, f"{name} is no directory")
    return name, False


def context_length(config: Callable[[str], Any], bound: int = 0) -> int:
    """How many tokens a model takes, prompt and answer together; 0 where nobody knows.

    ``config`` looks up a name in the model's configuration, and gives None where it is not
    there; ``bound`` is the operator's (0: none).
    """
    own = next((length for name in _CONTEXT_NAMES if (length := config(name))), 0)
    return min((length for length in (own, bound) if length), default=0)


def several(value: Any) -> Sequence[Any]:
    """What configurations let be None, one or many, such as the ids that end an answer."""
    if value is None:
        return ()
    return value if isinstance(value, list | tuple) else (value,)


class Reason(NamedTuple):
    """A way to fail: the exception's name, part of its text, and what that means.

    By name, since what raises it is not always installed; ``advice`` is for the operator.
    """

    error: str
    text: str
    reason: v1.ErrorReason.ValueType
    advice: str


_REASONS: Sequence[Reason] = (
    Reason(
        "GatedRepoError",  # also a RepositoryNotFoundError
        "",
        _UNAVAILABLE,
        "its makers let in only whom they know: accept their terms on the Hub and set HF_TOKEN",
    ),
    Reason(
        "RepositoryNotFoundError",
        "",
        _MISSING,
        "there is no such directory, and no such model on the Hugging Face Hub (or it is "
        "private, and HF_TOKEN is not set)",
    ),
    Reason(
        "HFValidationError",
        "",
        _MISSING,
        "there is no such directory, and it is no Hugging Face hub id",
    ),
    Reason(
        "LocalEntryNotFoundError",
        "",
        _UNAVAILABLE,
        "there is no such directory, it has not been downloaded, and the Hugging Face Hub "
        "cannot be reached",
    ),
    Reason("MemoryError", "", _UNAVAILABLE, "there is too little memory for it"),
    Reason("JSONDecodeError", "", _UNAVAILABLE, "one of its JSON files is damaged"),
    Reason("ImportError", "", _UNAVAILABLE, "a package that it needs is not installed"),
    Reason("OSError", "", _UNAVAILABLE, "its files cannot be read"),
)
"""In order, after the sidecar's own; the first that fits the error, or one that caused it."""


def explain(error: BaseException, source: str, own: Sequence[Reason] = ()) -> Failure | None:
    """The failure for an error; None where it is one already, or nothing is known of it.

    ``source`` is the model's directory or hub id, ``own`` what the sidecar knows of its library.
    """
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and len(chain) < 10:
        if isinstance(link, Failure):
            return None
        chain.append(link)
        link = link.__cause__ or link.__context__
    for row in (*own, *_REASONS):
        for link in chain:
            names = {kind.__name__ for kind in type(link).__mro__}
            if row.error in names and row.text in str(link):
                return Failure(row.reason, f"{source}: {row.advice}. ({_brief(link)})")
    return None


def _brief(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"
