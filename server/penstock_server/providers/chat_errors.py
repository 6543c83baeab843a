"""What an error of a Chat Completions server means: status, code and words → a `Failure`.

Servers agree on little: ``{"error": {"message", "type", "code", "param"}}`` is OpenAI's form
(developers.openai.com, guide "Error codes"), Anthropic's and vLLM's differ slightly, others send
``{"error": "text"}``, ``{"detail": …}`` or a page for people. So codes are looked up first, then
words, then the HTTP status.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, TypeAlias

import msgspec
from penstock import v1

from penstock_server.errors import Failure, Violation
from penstock_server.providers.chat_request import request_field

Reason: TypeAlias = v1.ErrorReason.ValueType

# error.code or error.type → reason. Types that say no more than the status does are left out.
_BY_CODE: Mapping[str, Reason] = {
    "context_length_exceeded": v1.ERROR_REASON_CONTEXT_LENGTH_EXCEEDED,
    "exceed_context_size_error": v1.ERROR_REASON_CONTEXT_LENGTH_EXCEEDED,  # llama.cpp
    "model_not_found": v1.ERROR_REASON_MODEL_NOT_FOUND,
    "unsupported_parameter": v1.ERROR_REASON_UNSUPPORTED_FEATURE,
    "unsupported_value": v1.ERROR_REASON_UNSUPPORTED_FEATURE,
    "invalid_api_key": v1.ERROR_REASON_PROVIDER_AUTHENTICATION,
    "authentication_error": v1.ERROR_REASON_PROVIDER_AUTHENTICATION,
    "permission_error": v1.ERROR_REASON_PROVIDER_AUTHENTICATION,
    "insufficient_quota": v1.ERROR_REASON_PROVIDER_QUOTA_EXHAUSTED,
    "billing_hard_limit_reached": v1.ERROR_REASON_PROVIDER_QUOTA_EXHAUSTED,
    "billing_not_active": v1.ERROR_REASON_PROVIDER_QUOTA_EXHAUSTED,
    "billing_error": v1.ERROR_REASON_PROVIDER_QUOTA_EXHAUSTED,
    "rate_limit_exceeded": v1.ERROR_REASON_PROVIDER_RATE_LIMITED,
    "rate_limit_error": v1.ERROR_REASON_PROVIDER_RATE_LIMITED,
    "timeout_error": v1.ERROR_REASON_PROVIDER_TIMEOUT,
    "overloaded_error": v1.ERROR_REASON_PROVIDER_UNAVAILABLE,
    "server_error": v1.ERROR_REASON_PROVIDER_UNAVAILABLE,
}

_BY_STATUS: Mapping[int, Reason] = {
    400: v1.ERROR_REASON_INVALID_REQUEST,
    401: v1.ERROR_REASON_PROVIDER_AUTHENTICATION,
    402: v1.ERROR_REASON_PROVIDER_QUOTA_EXHAUSTED,
    403: v1.ERROR_REASON_PROVIDER_AUTHENTICATION,
    404: v1.ERROR_REASON_PROVIDER_PROTOCOL,  # a wrong base URL, unless the words name a model
    407: v1.ERROR_REASON_PROVIDER_AUTHENTICATION,
    408: v1.ERROR_REASON_PROVIDER_TIMEOUT,
    413: v1.ERROR_REASON_INVALID_REQUEST,
    422: v1.ERROR_REASON_INVALID_REQUEST,
    429: v1.ERROR_REASON_PROVIDER_RATE_LIMITED,
}

# For servers that have only words. Tried on the statuses below, in this order.
_BY_WORDS: tuple[tuple[re.Pattern[str], Reason], ...] = (
    (
        re.compile(r"(maximum|exceeds?|overflow).{0,60}context|context (length|window|size)|"
                   r"context.{0,20}overflow|prompt is too long", re.IGNORECASE),
        v1.ERROR_REASON_CONTEXT_LENGTH_EXCEEDED,
    ),
    (
        re.compile(r"\bmodel\b.{0,300}\b(not found|does not exist)", re.IGNORECASE | re.DOTALL),
        v1.ERROR_REASON_MODEL_NOT_FOUND,
    ),
    (
        re.compile(r"credit balance|current quota", re.IGNORECASE),
        v1.ERROR_REASON_PROVIDER_QUOTA_EXHAUSTED,
    ),
)  # fmt: skip
_WORDY = frozenset({400, 404, 413, 422})

_SAYS: Mapping[Reason, str] = {
    v1.ERROR_REASON_INVALID_REQUEST: "refused the request",
    v1.ERROR_REASON_CONTEXT_LENGTH_EXCEEDED: "cannot fit the request into the model",
    v1.ERROR_REASON_MODEL_NOT_FOUND: "has no such model",
    v1.ERROR_REASON_UNSUPPORTED_FEATURE: "does not support what was asked",
    v1.ERROR_REASON_PROVIDER_AUTHENTICATION: "refused the gateway's key",
    v1.ERROR_REASON_PROVIDER_QUOTA_EXHAUSTED: "says that the gateway's account is used up",
    v1.ERROR_REASON_PROVIDER_RATE_LIMITED: "asks for fewer requests",
    v1.ERROR_REASON_PROVIDER_TIMEOUT: "took too long",
    v1.ERROR_REASON_PROVIDER_UNAVAILABLE: "cannot answer now",
    v1.ERROR_REASON_PROVIDER_PROTOCOL: "did not answer as a Chat Completions server; "
    "check its base URL, and what stands between",
}

_MAX_WORDS = 500
_MAX_SEARCHED = 4_000
_MAX_BODY = 64 * 1024
_LONGEST_DELAY = 24 * 3600.0
_TITLE = re.compile(r"<title[^<>]*>", re.IGNORECASE)
_TITLE_END = re.compile(r"</title", re.IGNORECASE)
_SECONDS = re.compile(r"\d{1,9}(\.\d*)?")


class _Complaint(NamedTuple):
    words: str
    codes: tuple[str, ...] = ()
    param: str = ""


class ErrorReader:
    """Makes failures of one provider's errors.

    ``redact`` takes the key out of a text; ``hints`` say what to do about a reason.

    Example::

        reader = ErrorReader("openai", {}, lambda text: text)
        reader.failure(b'{"error": {"code": "insufficient_quota"}}', status=429).reason_name
        # "PROVIDER_QUOTA_EXHAUSTED"
    """

    def __init__(
        self, name: str, hints: Mapping[Reason, str], redact: Callable[[str], str]
    ) -> None:
        self._name = name
        self._hints = hints
        self._redact = redact

    def failure(
        self, body: bytes, *, status: int | None = None, headers: Mapping[str, str] | None = None
    ) -> Failure:
        """The failure for an error answer; ``status`` None for an error inside a stream.

        ``retry_delay`` is what the headers ask for.
        """
        headers = headers or {}
        complaint = _read(self._redact(body[:_MAX_BODY].decode("utf-8", "replace")))
        if status is None:
            status = next((int(c) for c in complaint.codes if re.fullmatch(r"[45]\d\d", c)), 500)
        reason = _reason(status, complaint)
        words = complaint.words[:_MAX_WORDS] or f"HTTP status {status}, without a word"
        if 300 <= status < 400:
            words = f"it redirects to {self._redact(headers.get('location', 'nowhere'))}"
        message = f"provider {self._name!r} {_SAYS[reason]}: {words}"
        if hint := self._hints.get(reason):
            message += f" ({hint})"
        field = request_field(complaint.param)
        failure = Failure(
            reason,
            message,
            violations=[Violation(field, words)]
            if field and reason == v1.ERROR_REASON_INVALID_REQUEST
            else (),
            retry_delay=retry_delay(headers),
        )
        if reason == v1.ERROR_REASON_UNSUPPORTED_FEATURE:
            failure.metadata["feature"] = field or complaint.param
        return failure

    def nonsense(self, what: str) -> Failure:
        """PROVIDER_PROTOCOL: an answer that was not an error, but made no sense."""
        message = f"provider {self._name!r} {self._redact(what)}"
        return Failure(v1.ERROR_REASON_PROVIDER_PROTOCOL, message)

    def page(self, body: bytes) -> Failure:
        """PROVIDER_PROTOCOL for a page for people where an answer was due."""
        title = _page_title(body[:_MAX_BODY].decode("utf-8", "replace"))[:_MAX_WORDS]
        titled = f" titled {title!r}" if title else ""
        return self.nonsense(
            f"sent an HTML page{titled}; check its base URL, and what stands between"
        )


def retry_delay(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait before trying again; None where the headers do not say.

    Takes ``retry-after-ms`` (Azure and OpenAI) and both forms of ``retry-after`` (RFC 9110,
    10.2.3). A date counts from the answer's own ``date``, so clocks that differ do no harm. At
    most a day. Header names are in lower case.

    Example::

        retry_delay({"retry-after": "2"}) == 2.0
    """
    delay: float | None = None
    milliseconds, after = headers.get("retry-after-ms", ""), headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(milliseconds):
        delay = float(milliseconds) / 1000
    elif _SECONDS.fullmatch(after):
        delay = float(after)
    elif (moment := _date(after)) is not None:
        now = _date(headers.get("date", "")) or datetime.now(UTC)
        delay = (moment - now).total_seconds()
    return None if delay is None else min(max(delay, 0.0), _LONGEST_DELAY)


def _date(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _reason(status: int, complaint: _Complaint) -> Reason:
    for code in complaint.codes:
        if code in _BY_CODE:
            return _BY_CODE[code]
    if status in _WORDY:
        for pattern, reason in _BY_WORDS:
            if pattern.search(complaint.words[:_MAX_SEARCHED]):
                return reason
    # Anthropic's words are just "model: some-name".
    if status == 404 and "not_found_error" in complaint.codes and "model" in complaint.words:
        return v1.ERROR_REASON_MODEL_NOT_FOUND
    if status >= 500:
        return v1.ERROR_REASON_PROVIDER_UNAVAILABLE
    return _BY_STATUS.get(status, v1.ERROR_REASON_PROVIDER_PROTOCOL)


def _read(text: str) -> _Complaint:
    try:
        body: Any = msgspec.json.decode(text)
    except (ValueError, RecursionError):
        plain = _page_title(text) or ("" if "<html" in text.lower() else text)
        return _Complaint(" ".join(plain.split()))
    if not isinstance(body, dict):
        return _Complaint(text.strip())
    error = body.get("error") or body
    if not isinstance(error, dict):
        return _Complaint(_text(error), tuple(_codes(body)))
    words = next((_text(error[k]) for k in ("message", "detail", "error") if error.get(k)), "")
    return _Complaint(words or text.strip(), tuple(_codes(error)), _text(error.get("param")))


def _codes(error: dict[str, Any]) -> Iterator[str]:
    for key in ("code", "type"):
        if value := _text(error.get(key)):
            yield value


def _text(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _page_title(text: str) -> str:
    # Not by one pattern, which takes time by the square where a page never ends its title.
    start = _TITLE.search(text)
    end = _TITLE_END.search(text, start.end()) if start else None
    return " ".join(html.unescape(text[start.end() : end.start()]).split()) if start and end else ""
