"""Failures: what is raised inside the server, and the gRPC status that a caller gets for it.

Everything that can go wrong is a row of ``STATUS``; the reasons themselves are the registry in
``proto/penstock/v1/error_reason.proto``. Providers raise `Failure`; only ``interceptor`` turns
it into a status. Knowing how to recognise a vendor's errors belongs to its provider.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import grpc
from google.protobuf.any_pb2 import Any
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from penstock import v1
from penstock.errors import PenstockError

if TYPE_CHECKING:
    from google.protobuf.message import Message

DOMAIN = "penstock"

STATUS: Mapping[v1.ErrorReason.ValueType, grpc.StatusCode] = {
    v1.ERROR_REASON_INVALID_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    v1.ERROR_REASON_CONTEXT_LENGTH_EXCEEDED: grpc.StatusCode.INVALID_ARGUMENT,
    v1.ERROR_REASON_MESSAGE_TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    v1.ERROR_REASON_MODEL_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    v1.ERROR_REASON_PROVIDER_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    v1.ERROR_REASON_UNSUPPORTED_FEATURE: grpc.StatusCode.FAILED_PRECONDITION,
    v1.ERROR_REASON_CONTENT_REFUSED: grpc.StatusCode.INVALID_ARGUMENT,
    v1.ERROR_REASON_CALLER_UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    v1.ERROR_REASON_CALLER_FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
    v1.ERROR_REASON_PROVIDER_AUTHENTICATION: grpc.StatusCode.FAILED_PRECONDITION,
    v1.ERROR_REASON_PROVIDER_RATE_LIMITED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    v1.ERROR_REASON_PROVIDER_QUOTA_EXHAUSTED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    v1.ERROR_REASON_OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    v1.ERROR_REASON_LIMIT_EXCEEDED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    v1.ERROR_REASON_IDENTITY_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    v1.ERROR_REASON_PROVIDER_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    v1.ERROR_REASON_SIDECAR_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    v1.ERROR_REASON_SIDECAR_LOST: grpc.StatusCode.UNAVAILABLE,
    v1.ERROR_REASON_SHUTTING_DOWN: grpc.StatusCode.UNAVAILABLE,
    v1.ERROR_REASON_PROVIDER_TIMEOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
    v1.ERROR_REASON_PROVIDER_PROTOCOL: grpc.StatusCode.INTERNAL,
    v1.ERROR_REASON_ENGINE_FAILURE: grpc.StatusCode.INTERNAL,
    v1.ERROR_REASON_INTERNAL_ERROR: grpc.StatusCode.INTERNAL,
}

# gRPC allows 8 KB of trailers in all, and a status's text travels twice, once percent-encoded and
# once inside the details: longer texts would replace the error by "trailers too large". In bytes.
MAX_TEXT = 2_000
MAX_VIOLATIONS = 32
MAX_METADATA_VALUE = 256

_ESCAPED = 3
"""How many bytes percent-encoding makes of one that is not printable ASCII."""


class Violation(NamedTuple):
    """One wrong field of a request.

    ``field`` is its path as a caller writes it, such as ``messages[2].parts[0].image``;
    ``description`` says what is wrong with it and what would be right.
    """

    field: str
    description: str


class Failure(Exception):
    """Something went wrong, in the contract's own terms.

    ``metadata`` (and ``extra``, for a mapping at hand) is the ErrorInfo's, ``retry_delay`` the
    seconds after which trying again may help (None: not known). ``passing`` says whether the same
    request may succeed later; None: what the reason says holds (see ``retry``).

    Example::

        raise Failure(v1.ERROR_REASON_MODEL_NOT_FOUND, "no model 'big'", model="local/big")
    """

    def __init__(
        self,
        reason: v1.ErrorReason.ValueType,
        message: str,
        *,
        violations: Sequence[Violation] = (),
        retry_delay: float | None = None,
        passing: bool | None = None,
        extra: Mapping[str, str] | None = None,
        **metadata: str,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = _shorten(message, MAX_TEXT, _ESCAPED)
        self.violations = tuple(violations)
        self.retry_delay = retry_delay
        self.passing = passing
        self.metadata = {**(extra or {}), **metadata}

    @property
    def code(self) -> grpc.StatusCode:
        """The gRPC status code that goes with the reason."""
        return STATUS[self.reason]

    @property
    def reason_name(self) -> str:
        """The reason as it stands in ErrorInfo: without the enum's prefix."""
        return v1.ErrorReason.Name(self.reason).removeprefix("ERROR_REASON_")

    def again(self) -> Failure:
        """The same, to be raised once more: a raised exception collects its tracebacks."""
        return Failure(
            self.reason,
            self.message,
            violations=self.violations,
            retry_delay=self.retry_delay,
            passing=self.passing,
            extra=self.metadata,
        )

    @classmethod
    def invalid(cls, violations: Sequence[Violation]) -> Failure:
        """INVALID_REQUEST that names every wrong field, in its message too."""
        told = violations[:MAX_VIOLATIONS]
        message = "; ".join(f"{v.field}: {v.description}" for v in told)
        return cls(v1.ERROR_REASON_INVALID_REQUEST, message, violations=violations)

    @classmethod
    def unsupported(cls, feature: str, message: str, **metadata: str) -> Failure:
        """UNSUPPORTED_FEATURE; ``feature`` is the request's field that asked for it."""
        return cls(v1.ERROR_REASON_UNSUPPORTED_FEATURE, message, extra=metadata, feature=feature)

    @classmethod
    def from_penstock(cls, error: PenstockError) -> Failure | None:
        """The failure that another Penstock server reported; None where it was not one.

        A sidecar's statuses are ours already: they pass through the gateway unchanged.
        """
        name = f"ERROR_REASON_{error.reason}"
        reason = dict(v1.ErrorReason.items()).get(name)
        if reason is None:
            return None
        return cls(
            reason,
            error.message,
            violations=[Violation(v.field, v.description) for v in error.field_violations],
            retry_delay=error.retry_delay,
            extra=error.metadata,
        )


def to_status(failure: Failure, **metadata: str) -> Status:
    """The google.rpc.Status for a failure; ``metadata`` is added where it is not yet set."""
    info = ErrorInfo(domain=DOMAIN, reason=failure.reason_name)
    for key, value in {**metadata, **failure.metadata}.items():
        info.metadata[key] = _shorten(value, MAX_METADATA_VALUE)
    details: list[Message] = [info]
    if failure.retry_delay is not None:
        retry = RetryInfo()
        retry.retry_delay.FromMilliseconds(math.ceil(failure.retry_delay * 1000))
        details.append(retry)
    if failure.violations:
        details.append(_bad_request(failure.violations))
    status = Status(code=failure.code.value[0], message=failure.message)
    for detail in details:
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def _bad_request(violations: Sequence[Violation]) -> BadRequest:
    bad_request = BadRequest()
    budget = MAX_TEXT
    for violation in violations[:MAX_VIOLATIONS]:
        field = _shorten(violation.field, 200)
        description = _shorten(violation.description, 400)
        budget -= len(field.encode()) + len(description.encode())
        if budget < 0:
            break
        bad_request.field_violations.add(field=field, description=description)
    return bad_request


def _shorten(text: str, limit: int, escaped: int = 1) -> str:
    """``text`` in ``limit`` bytes of UTF-8; those beyond printable ASCII count ``escaped`` each.

    What is no text at all (half a surrogate pair, from somebody's JSON) becomes "?".
    """
    raw = text[: limit + 1].encode("utf-8", "replace")
    if len(raw) * escaped <= limit:
        return raw.decode()
    room = used = 0
    for place, byte in enumerate(raw, 1):
        used += 1 if 0x20 <= byte < 0x7F and byte != 0x25 else escaped
        if used <= limit - len("…".encode()) * escaped:
            room = place
        elif used > limit:
            return raw[:room].decode("utf-8", "ignore") + "…"
    return raw.decode()
