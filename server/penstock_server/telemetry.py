"""What the server says about itself: structured log lines, one for each call.

Prompts, answers, keys and tokens are never logged, unless ``log.prompts`` asks for prompts and
answers. Human lines are for a terminal, JSON lines (one object each) for everything else.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TextIO

from penstock import v1

from penstock_server.server_settings import Log

logger = logging.getLogger("penstock")
calls = logging.getLogger("penstock.calls")


class _Human(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created).strftime("%H:%M:%S.%f")[:-3]
        fields = " ".join(f"{k}={_plain(v)}" for k, v in _fields(record).items())
        line = f"{moment} {record.levelname.lower():<7} {record.getMessage()} {fields}".rstrip()
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


class _Stderr(logging.StreamHandler[TextIO]):
    """Lines for which there is no room are lost, and nothing else: answers matter more."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields: dict[str, object] = getattr(record, "fields", {})
    return fields


def _plain(value: object) -> str:
    text = f"{value:.1f}" if isinstance(value, float) else str(value)
    return json.dumps(text, ensure_ascii=False) if not text or " " in text else text


_format = "human"


def configure(log: Log) -> None:
    """Send all log lines to stderr, in the configured format."""
    global _format
    _format = log.format
    handler = _Stderr(sys.stderr)
    handler.setFormatter(_Json() if log.format == "json" else _Human())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)  # libraries speak up only when something is wrong
    logger.setLevel(log.level.upper())


def log(level: int, message: str, **fields: object) -> None:
    """One structured line, such as ``log(logging.INFO, "ready", address="127.0.0.1:50051")``."""
    logger.log(level, message, extra={"fields": fields})


def relay(line: str, sidecar: str) -> None:
    """Pass on a line that a sidecar wrote: its log, whose format is ours, or anything else."""
    if _format != "human" and not line.startswith("{"):
        log(logging.INFO, line, sidecar=sidecar)
        return
    with suppress(OSError):  # no room for it
        sys.stderr.write(f"{sidecar} | {line}\n" if _format == "human" else f"{line}\n")


Observer = Callable[["CallLog", str, str, float], None]
"""Told of a call that has ended: its status's code, the reason, and how many seconds it took."""


@dataclass(slots=True)
class CallLog:
    """What is known of one call; rooms add to it as the call passes them, with `note`."""

    method: str
    request_id: str
    peer: str
    private: bool = False
    """Whether what is private may be written: prompts and answers."""
    started: float = field(default_factory=time.monotonic)
    fields: dict[str, object] = field(default_factory=dict)
    observe: Observer | None = None
    """Counts the call, with what follows here, when it ends."""
    provider: str = ""
    """The provider or route that was asked."""
    answered: str = ""
    """The provider that answered."""
    first_event: float | None = None
    """When the first of a stream's answer came, on `time.monotonic`'s clock."""
    tokens: Mapping[str, int] | None = None
    """By kind."""
    retries: list[str] = field(default_factory=list)
    """Why it was tried again, each time."""
    tried: list[tuple[str, str, str]] = field(default_factory=list)
    """What a route tried beside the target that answered: route, target, reason."""

    def write(self, code: str, reason: str = "", message: str = "") -> None:
        """Write the call's one line."""
        took = (time.monotonic() - self.started) * 1000
        if self.observe is not None:
            self.observe(self, code, reason, took / 1000)
        fields = {"code": code, "ms": round(took, 1), **self.fields, "peer": self.peer}
        if reason:
            fields |= {"reason": reason, "error": message}
        fields["request_id"] = self.request_id
        level = logging.ERROR if code == "INTERNAL" else logging.INFO
        calls.log(level, self.method, extra={"fields": fields})


current: ContextVar[CallLog] = ContextVar("penstock_call_log")


def note(**fields: object) -> None:
    """Add to the current call's line."""
    current.get().fields.update(fields)


def note_private(**fields: object) -> None:
    """Add what is private, where the configuration asks for it (``log.prompts``)."""
    if current.get().private:
        note(**{name: str(value) for name, value in fields.items()})


def answered(model: str, usage: v1.Usage) -> None:
    """A model, by its full name, has answered."""
    call = current.get()
    call.answered = model.partition("/")[0]
    call.tokens = {
        "input": usage.input_tokens,
        "cached_input": usage.cached_input_tokens,
        "output": usage.output_tokens,
    }


def tried(route: str, target: str, reason: str) -> None:
    """A route has tried a target that did not answer."""
    call = current.get()
    call.tried.append((route, target, reason))
    call.fields["tried"] = ",".join(f"{name}:{why}" for _, name, why in call.tried)


def retried(attempt: int, reason: str, pause: float) -> None:
    """A call is about to be tried again, after so many seconds."""
    call = current.get()
    call.retries.append(reason)
    log(
        logging.WARNING,
        "trying again",
        model=call.fields.get("model", ""),
        attempt=attempt,
        reason=reason,
        pause=round(pause, 3),
        request_id=call.request_id,
    )
