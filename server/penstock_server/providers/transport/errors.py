"""What a provider's error means: status, code and words → a `Failure`.

Vendors agree on little: ``{"error": {"message", "type", "code", "param"}}`` is OpenAI's form
(developers.openai.com, guide "Error codes"), Anthropic's (platform.claude.com/docs/en/api/errors)
and vLLM's differ slightly, Google's is a list with a ``status``, Amazon's has ``__type``, Ollama
and others send ``{"error": "text"}``, ``{"detail": …}`` or a page for people. So codes are looked
up first, then words, then the HTTP status. One table serves all: no code means two things.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, TypeAlias, TypeVar

import msgspec
from penstock import v1

from penstock_server.errors import Failure, Violation

Reason: TypeAlias = v1.ErrorReason.ValueType
T = TypeVar("T")

# error.code or error.type → reason. Types that say no more than the status does are left out.
_BY_CODE: Mapping[str, Reason] = {
    "context_length_exceeded": v1.ERROR_REASON_CONTEXT_LENGTH_EXCEEDED,
    "exceed_context_size_error": v1.ERROR_REASON_CONTEXT_LENGTH_EXCEEDED,  # llama.cpp
    "string_above_max_length": v1.ERROR_REASON_CONTEXT_LENGTH_EXCEEDED,
    "model_not_found": v1.ERROR_REASON_MODEL_NOT_FOUND,
    "DeploymentNotFound": v1.ERROR_REASON_MODEL_NOT_FOUND,  # Azure
    "ResourceNotFoundException": v1.ERROR_REASON_MODEL_NOT_FOUND,  # Bedrock
    "content_filter": v1.ERROR_REASON_CONTENT_REFUSED,  # Azure
    "content_policy_violation": v1.ERROR_REASON_CONTENT_REFUSED,
    "image_content_policy_violation": v1.ERROR_REASON_CONTENT_REFUSED,
    "invalid_prompt": v1.ERROR_REASON_CONTENT_REFUSED,
    "cyber_policy_violation": v1.ERROR_REASON_CONTENT_REFUSED,
    "bio_policy": v1.ERROR_REASON_CONTENT_REFUSED,
    "misalignment_policy_violation": v1.ERROR_REASON_CONTENT_REFUSED,
    **dict.fromkeys(
        (
            "invalid_image",
            "invalid_image_format",
            "invalid_base64_image",
            "invalid_image_url",
            "invalid_image_mode",
            "image_too_large",
            "image_too_small",
            "image_parse_error",
            "image_file_too_large",
            "image_file_not_found",
            "unsupported_image_media_type",
            "empty_image_file",
            "failed_to_download_image",
            "data_residency_mismatch",
        ),
        v1.ERROR_REASON_INVALID_REQUEST,
    ),
    "unsupported_parameter": v1.ERROR_REASON_UNSUPPORTED_FEATURE,
    "unsupported_value": v1.ERROR_REASON_UNSUPPORTED_FEATURE,
    "invalid_api_key": v1.ERROR_REASON_PROVIDER_AUTHENTICATION,
    "authentication_error": v1.ERROR_REASON_PROVIDER_AUTHENTICATION,
    "AccessDeniedException": v1.ERROR_REASON_PROVIDER_AUTHENTICATION,  # Bedrock
    "UnrecognizedClientException": v1.ERROR_REASON_PROVIDER_AUTHENTICATION,
    "ExpiredTokenException": v1.ERROR_REASON_PROVIDER_AUTHENTICATION,
    "permission_error": v1.ERROR_REASON_PROVIDER_AUTHENTICATION,
    "insufficient_quota": v1.ERROR_REASON_PROVIDER_QUOTA_EXHAUSTED,
    "billing_hard_limit_reached": v1.ERROR_REASON_PROVIDER_QUOTA_EXHAUSTED,
    "billing_not_active": v1.ERROR_REASON_PROVIDER_QUOTA_EXHAUSTED,
    "billing_error": v1.ERROR_REASON_PROVIDER_QUOTA_EXHAUSTED,
    "rate_limit_exceeded": v1.ERROR_REASON_PROVIDER_RATE_LIMITED,
    "rate_limit_error": v1.ERROR_REASON_PROVIDER_RATE_LIMITED,
    "ThrottlingException": v1.ERROR_REASON_PROVIDER_RATE_LIMITED,  # Bedrock
    "ServiceQuotaExceededException": v1.ERROR_REASON_PROVIDER_QUOTA_EXHAUSTED,
    "timeout_error": v1.ERROR_REASON_PROVIDER_TIMEOUT,
    "ModelTimeoutException": v1.ERROR_REASON_PROVIDER_TIMEOUT,
    "vector_store_timeout": v1.ERROR_REASON_PROVIDER_TIMEOUT,
    "overloaded_error": v1.ERROR_REASON_PROVIDER_UNAVAILABLE,
    "api_error": v1.ERROR_REASON_PROVIDER_UNAVAILABLE,
    "ModelNotReadyException": v1.ERROR_REASON_PROVIDER_UNAVAILABLE,
    "ModelStreamErrorException": v1.ERROR_REASON_PROVIDER_UNAVAILABLE,
    "ServiceUnavailableException": v1.ERROR_REASON_PROVIDER_UNAVAILABLE,
    "InternalServerException": v1.ERROR_REASON_PROVIDER_UNAVAILABLE,
    "server_error": v1.ERROR_REASON_PROVIDER_UNAVAILABLE,
}

# The same for errors inside a stream, which have no status of their own to say it.
_BY_CODE_IN_STREAM: Mapping[str, Reason] = {
    "invalid_request_error": v1.ERROR_REASON_INVALID_REQUEST,
    "request_too_large": v1.ERROR_REASON_INVALID_REQUEST,
    "ValidationException": v1.ERROR_REASON_INVALID_REQUEST,
    "not_found_error": v1.ERROR_REASON_MODEL_NOT_FOUND,
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
        re.compile(r"does not support (tools|thinking|images|embeddings?|chat)", re.IGNORECASE),
        v1.ERROR_REASON_UNSUPPORTED_FEATURE,
    ),
    (
        re.compile(r"credit balance|current quota", re.IGNORECASE),
        v1.ERROR_REASON_PROVIDER_QUOTA_EXHAUSTED,
    ),
)  # fmt: skip
# "Not implemented", "HTTP version not supported": they will be the same the next time.
_FOR_GOOD = frozenset({501, 505})
_WORDY = frozenset({400, 404, 413, 422})

_SAYS: Mapping[Reason, str] = {
    v1.ERROR_REASON_INVALID_REQUEST: "refused the request",
    v1.ERROR_REASON_CONTEXT_LENGTH_EXCEEDED: "cannot fit the request into the model",
    v1.ERROR_REASON_MODEL_NOT_FOUND: "has no such model",
    v1.ERROR_REASON_UNSUPPORTED_FEATURE: "does not support what was asked",
    v1.ERROR_REASON_CONTENT_REFUSED: "refused the request for what it says",
    v1.ERROR_REASON_PROVIDER_AUTHENTICATION: "refused the gateway's key",
    v1.ERROR_REASON_PROVIDER_QUOTA_EXHAUSTED: "says that the gateway's account is used up",
    v1.ERROR_REASON_PROVIDER_RATE_LIMITED: "asks for fewer requests",
    v1.ERROR_REASON_PROVIDER_TIMEOUT: "took too long",
    v1.ERROR_REASON_PROVIDER_UNAVAILABLE: "cannot answer now",
    v1.ERROR_REASON_PROVIDER_PROTOCOL: "did not answer as its kind of server does; "
    "check its base URL, and what stands between",
}

_WORDS_IN = ("message", "Message", "detail", "error")
_MAX_WORDS = 500
_MAX_SEARCHED = 4_000
_FEATURE = re.compile(r"does not support (?P<feature>\w+)", re.IGNORECASE)
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

    ``redact`` takes keys out of a text; ``hints`` say what to do about a reason; ``field_of`` knows
    the request's field for what the vendor calls a ``param``, "" where there is none.

    Example::

        reader = ErrorReader("openai", {}, lambda text: text)
        reader.failure(b'{"error": {"code": "insufficient_quota"}}', status=429).reason_name
        # "PROVIDER_QUOTA_EXHAUSTED"
    """

    def __init__(
        self,
        name: str,
        hints: Mapping[Reason, str],
        redact: Callable[[str], str],
        field_of: Callable[[str], str] = lambda param: "",
    ) -> None:
        self._name = name
        self._hints = hints
        self._redact = redact
        self._field_of = field_of

    def failure(
        self, body: bytes, *, status: int | None = None, headers: Mapping[str, str] | None = None
    ) -> Failure:
        """The failure for an error answer; ``status`` None for an error inside a stream.

        ``retry_delay`` is what the headers ask for.
        """
        headers = headers or {}
        complaint = _read(self._redact(body[:_MAX_BODY].decode("utf-8", "replace")))
        reason = _reason(status, complaint)
        words = complaint.words[:_MAX_WORDS] or f"HTTP status {status}, without a word"
        if status is not None and 300 <= status < 400:
            words = f"it redirects to {self._redact(headers.get('location', 'nowhere'))}"
        message = f"provider {self._name!r} {_SAYS[reason]}: {words}"
        if hint := self._hints.get(reason):
            message += f" ({hint})"
        field = self._field_of(complaint.param)
        failure = Failure(
            reason,
            message,
            violations=[Violation(field, words)]
            if field and reason == v1.ERROR_REASON_INVALID_REQUEST
            else (),
            retry_delay=retry_delay(headers),
            passing=_passing(status, headers),
        )
        if reason == v1.ERROR_REASON_UNSUPPORTED_FEATURE:
            named = _FEATURE.search(complaint.words[:_MAX_SEARCHED])
            failure.metadata["feature"] = (
                field or complaint.param or (named["feature"] if named else "")
            )
        return failure

    def nonsense(self, what: str) -> Failure:
        """PROVIDER_PROTOCOL: an answer that was not an error, but made no sense."""
        message = f"provider {self._name!r} {self._redact(what)}"
        return Failure(v1.ERROR_REASON_PROVIDER_PROTOCOL, message)

    def decoded(self, read: Callable[[bytes], T], body: bytes) -> T:
        """What ``read``, a decoder of JSON, makes of a body; PROVIDER_PROTOCOL where it cannot."""
        try:
            return read(body)
        except (ValueError, RecursionError) as error:
            text = body.lstrip()
            if text.startswith(b"<"):
                raise self.page(body) from None
            # The decoder's words name the field, and quote nothing of what may be private.
            problem = f"sent what makes no sense: {error}" if text else "sent an empty answer"
            raise self.nonsense(problem) from None

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


def _passing(status: int | None, headers: Mapping[str, str]) -> bool | None:
    """Whether trying again may help, where the answer says more about it than its reason does."""
    word = headers.get("x-should-retry", "").lower()  # OpenAI's and Anthropic's own
    if word in ("true", "false"):
        return word == "true"
    return False if status in _FOR_GOOD else None


def _date(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _reason(status: int | None, complaint: _Complaint) -> Reason:
    for code in complaint.codes:
        if code in _BY_CODE:
            return _BY_CODE[code]
        if status is None and code in _BY_CODE_IN_STREAM:
            return _BY_CODE_IN_STREAM[code]
    if status is None:
        # llama.cpp and OpenRouter say there what the status would have been.
        status = next((int(c) for c in complaint.codes if re.fullmatch(r"[45]\d\d", c)), 500)
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
    if isinstance(body, list) and body:
        body = body[0]  # Google's
    if not isinstance(body, dict):
        return _Complaint(text.strip())
    error = body.get("error") or body
    if not isinstance(error, dict):
        return _Complaint(_text(error), tuple(_codes(body)))
    words = next((_text(error[k]) for k in _WORDS_IN if error.get(k)), "")
    return _Complaint(words or text.strip(), tuple(_codes(error)), _text(error.get("param")))


def _codes(error: dict[str, Any]) -> Iterator[str]:
    for key in ("code", "type", "__type", "status"):
        if value := _text(error.get(key)):
            yield value.rpartition("#")[2]  # Amazon puts a name space before it


def _text(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _page_title(text: str) -> str:
    # Not by one pattern, which takes time by the square where a page never ends its title.
    start = _TITLE.search(text)
    end = _TITLE_END.search(text, start.end()) if start else None
    return " ".join(html.unescape(text[start.end() : end.start()]).split()) if start and end else ""
