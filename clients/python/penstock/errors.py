"""What a failed call raises: one tree of exceptions, made from what the server sent.

::

    PenstockError
    ├── ProviderError                     the model's provider, or what was asked of it
    │   ├── ProviderAPIError              it failed, or its answer made no sense
    │   │   ├── ProviderUnavailableError  it cannot be reached; also a ServiceUnavailableError
    │   │   │   └── SidecarLostError      a local model's process died while it answered
    │   │   └── ProviderTimeoutError      it took too long; also a DeadlineExceededError
    │   ├── AuthenticationError           a token or key was refused; ``reason`` tells whose
    │   ├── RateLimitError                too many requests; ``retry_delay`` tells when to go on
    │   │   └── QuotaExhaustedError       the account is used up: waiting does not help
    │   ├── InvalidRequestError           ``field_violations`` names what is wrong
    │   │   ├── ContentRefusedError       the provider's filter does not let the request through
    │   │   ├── ContextLengthError        prompt, or prompt and answer, do not fit into the model
    │   │   └── MessageTooLargeError      the message is larger than a side takes
    │   └── ModelNotFoundError            no such model, or no such provider
    ├── UnsupportedFeatureError           the model, or the server, cannot do what was asked
    ├── PermissionDeniedError             the caller may not do this
    ├── ServiceUnavailableError           nobody there to answer: call again later
    ├── DeadlineExceededError             the call's timeout passed; also a TimeoutError
    ├── CancelledCallError                the call was cancelled, by this side or by the server
    └── InternalError                     a fault in Penstock, or an answer against the contract

A failure that the server explained (see ``ErrorReason`` in the contract) is looked up by its
reason, every other one by its status code: ``BY_REASON`` and ``BY_CODE``. Making calls, and
deciding what to do about a failure, do not belong here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage

from penstock._status import CallStatus
from penstock.v1.error_reason_pb2 import ErrorReason


class FieldViolation(NamedTuple):
    """One wrong field of a request: its path, and what is wrong with it."""

    field: str
    description: str


class PenstockError(Exception):
    """A call failed. Catch this to catch everything that calls raise.

    Attributes:
        message: what was wrong and what to do, for people; its wording may change.
        code: the gRPC status code.
        reason: the contract's reason, such as "MODEL_NOT_FOUND"; "" where the failure carries
            none, as when no server could be reached.
        metadata: what else is known: model, provider, upstream_status, request_id, ….
        field_violations: every wrong field of the request.
        retry_delay: seconds after which calling again may help; None where that is not known.
        details: every detail of the status as it was on the wire, unknown kinds included.
        hint: what the client itself has to add, such as "is a server running at …?"; often "".

    Example::

        try:
            client.generate("Hi", model="local/tiny")
        except penstock.RateLimitError as error:
            time.sleep(error.retry_delay or 1)
        except penstock.PenstockError as error:
            log.error("%s", error)  # message, reason and request id
    """

    def __init__(
        self,
        message: str = "",
        *,
        code: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        field_violations: Iterable[FieldViolation] = (),
        retry_delay: float | None = None,
        details: Iterable[AnyMessage] = (),
        hint: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.metadata: Mapping[str, str] = dict(metadata or {})
        self.field_violations = tuple(field_violations)
        self.retry_delay = retry_delay
        self.details = tuple(details)
        self.hint = hint

    @property
    def request_id(self) -> str:
        """What the call is called in the server's log; "" where it is not known."""
        return self.metadata.get("request_id", "")

    @property
    def model(self) -> str:
        """The model that was asked for; "" where it is not known."""
        return self.metadata.get("model", "")

    @property
    def provider(self) -> str:
        """The provider that the call was routed to; "" where it is not known."""
        return self.metadata.get("provider", "")

    def __str__(self) -> str:
        label = self.reason or self.code.name
        if self.request_id:
            label = f"{label}, request {self.request_id}"
        text = f"{self.message} ({label})" if self.message else label
        return f"{text}; {self.hint}" if self.hint else text


class ProviderError(PenstockError):
    """The model's provider failed, or refused what was asked of it."""


class ProviderAPIError(ProviderError):
    """The provider failed, or its answer made no sense."""


class AuthenticationError(ProviderError):
    """A token or key was refused.

    With the reason CALLER_UNAUTHENTICATED it is this client's token; with
    PROVIDER_AUTHENTICATION it is the gateway's own key, which its operator has to mend.
    """


class RateLimitError(ProviderError):
    """The provider, or Penstock's own queue, takes no more for now; see ``retry_delay``."""


class QuotaExhaustedError(RateLimitError):
    """The gateway's account at the provider is used up: waiting does not help."""


class InvalidRequestError(ProviderError):
    """The request is wrong; ``field_violations`` names every wrong field."""


class ContentRefusedError(InvalidRequestError):
    """The provider's filter refused the request for what it says: another provider may not."""


class ContextLengthError(InvalidRequestError):
    """Prompt, or prompt and answer, do not fit into the model.

    ``metadata`` holds input_tokens and context_length where they are known.
    """


class MessageTooLargeError(InvalidRequestError):
    """A message is larger than the server, or this client, takes."""


class ModelNotFoundError(ProviderError):
    """There is no such model, or no such provider."""


class UnsupportedFeatureError(PenstockError):
    """The model, or the server, cannot do what was asked; ``metadata["feature"]`` names it."""


class PermissionDeniedError(PenstockError):
    """The caller is known and may not do this."""


class ServiceUnavailableError(PenstockError):
    """Nobody could answer: no server, one that is stopping, or a provider that is away."""


class DeadlineExceededError(PenstockError, TimeoutError):
    """The call took longer than its timeout, or than the provider was given."""


class CancelledCallError(PenstockError):
    """The call was cancelled: by ``cancel()``, by closing the client, or by the server.

    The cancellation of an asyncio task is not this: it stays ``asyncio.CancelledError``.
    """


class InternalError(PenstockError):
    """A fault in Penstock, or an answer that breaks the contract. Please report it."""


class ProviderUnavailableError(ProviderAPIError, ServiceUnavailableError):
    """The provider cannot be reached, or says that it cannot answer."""


class SidecarLostError(ProviderUnavailableError):
    """The process that ran the model died while it answered: what came before is incomplete."""


class ProviderTimeoutError(ProviderAPIError, DeadlineExceededError):
    """The provider took too long."""


BY_REASON: Mapping[ErrorReason.ValueType, type[PenstockError]] = {
    ErrorReason.ERROR_REASON_UNSPECIFIED: PenstockError,  # never sent
    ErrorReason.ERROR_REASON_INVALID_REQUEST: InvalidRequestError,
    ErrorReason.ERROR_REASON_CONTEXT_LENGTH_EXCEEDED: ContextLengthError,
    ErrorReason.ERROR_REASON_MESSAGE_TOO_LARGE: MessageTooLargeError,
    ErrorReason.ERROR_REASON_CONTENT_REFUSED: ContentRefusedError,
    ErrorReason.ERROR_REASON_MODEL_NOT_FOUND: ModelNotFoundError,
    ErrorReason.ERROR_REASON_PROVIDER_NOT_FOUND: ModelNotFoundError,
    ErrorReason.ERROR_REASON_UNSUPPORTED_FEATURE: UnsupportedFeatureError,
    ErrorReason.ERROR_REASON_CALLER_UNAUTHENTICATED: AuthenticationError,
    ErrorReason.ERROR_REASON_CALLER_FORBIDDEN: PermissionDeniedError,
    ErrorReason.ERROR_REASON_PROVIDER_AUTHENTICATION: AuthenticationError,
    ErrorReason.ERROR_REASON_PROVIDER_RATE_LIMITED: RateLimitError,
    ErrorReason.ERROR_REASON_PROVIDER_QUOTA_EXHAUSTED: QuotaExhaustedError,
    ErrorReason.ERROR_REASON_OVERLOADED: RateLimitError,
    ErrorReason.ERROR_REASON_LIMIT_EXCEEDED: RateLimitError,
    ErrorReason.ERROR_REASON_IDENTITY_UNAVAILABLE: ServiceUnavailableError,
    ErrorReason.ERROR_REASON_PROVIDER_UNAVAILABLE: ProviderUnavailableError,
    ErrorReason.ERROR_REASON_SIDECAR_UNAVAILABLE: ProviderUnavailableError,
    ErrorReason.ERROR_REASON_SIDECAR_LOST: SidecarLostError,
    ErrorReason.ERROR_REASON_SHUTTING_DOWN: ServiceUnavailableError,
    ErrorReason.ERROR_REASON_PROVIDER_TIMEOUT: ProviderTimeoutError,
    ErrorReason.ERROR_REASON_PROVIDER_PROTOCOL: ProviderAPIError,
    ErrorReason.ERROR_REASON_ENGINE_FAILURE: ProviderAPIError,
    ErrorReason.ERROR_REASON_INTERNAL_ERROR: InternalError,
}
"""The class for a failure that the server explained."""

BY_CODE: Mapping[grpc.StatusCode, type[PenstockError]] = {
    grpc.StatusCode.CANCELLED: CancelledCallError,
    grpc.StatusCode.UNKNOWN: InternalError,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.NOT_FOUND: ModelNotFoundError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
    grpc.StatusCode.UNAUTHENTICATED: AuthenticationError,
    grpc.StatusCode.UNIMPLEMENTED: UnsupportedFeatureError,
    grpc.StatusCode.UNAVAILABLE: ServiceUnavailableError,
    grpc.StatusCode.INTERNAL: InternalError,
    grpc.StatusCode.DATA_LOSS: InternalError,
    # Neither FAILED_PRECONDITION nor RESOURCE_EXHAUSTED says enough alone: the latter may mean
    # sizes as well as rates, and waiting would not help against sizes.
}
"""The class for a failure without a reason of ours; any other code is a plain PenstockError."""


class _Own(NamedTuple):
    """A failure that gRPC itself words: what to look for, what it means, what to do."""

    code: grpc.StatusCode
    pattern: str
    kind: type[PenstockError]
    hint: str = ""


_GRPC_OWN: Sequence[_Own] = (
    _Own(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "CLIENT: Received message larger than max",
        MessageTooLargeError,
        "the client's max_receive_bytes allows no more",
    ),
    _Own(grpc.StatusCode.RESOURCE_EXHAUSTED, "larger than max", MessageTooLargeError),
    _Own(grpc.StatusCode.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded", RateLimitError),
    _Own(
        grpc.StatusCode.UNAVAILABLE,
        "CERTIFICATE_VERIFY_FAILED",
        ServiceUnavailableError,
        "the certificate of {target} is not trusted: name its CA (TLSOptions(ca=…), --ca)",
    ),
    _Own(
        grpc.StatusCode.UNAVAILABLE,
        "WRONG_VERSION_NUMBER",
        ServiceUnavailableError,
        "{target} seems to speak no TLS",
    ),
    _Own(
        grpc.StatusCode.UNAVAILABLE,
        "failed to connect.*Socket closed",
        ServiceUnavailableError,
        "does {target} want TLS, or a client certificate?",
    ),
    _Own(
        grpc.StatusCode.UNAVAILABLE,
        "failed to connect|resolving|resolution",
        ServiceUnavailableError,
        "is a server running at {target}?",
    ),
    _Own(
        grpc.StatusCode.UNIMPLEMENTED,
        "",
        UnsupportedFeatureError,
        "is {target} a Penstock server, and as new as this client?",
    ),
    _Own(
        grpc.StatusCode.UNAUTHENTICATED,
        "",
        AuthenticationError,
        "is the token right (token=…, PENSTOCK_TOKEN)?",
    ),
)
"""In order: the first whose code and text fit. Only for statuses without a reason of ours."""


def from_rpc_error(error: grpc.RpcError, *, target: str = "the target") -> PenstockError:
    """The exception for a failed gRPC call, sync or aio, with everything that was on the wire.

    ``target`` is where the call went, for hints. Never raises: details that cannot be read are
    left out.

    Example::

        try:
            stub.Generate(request)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
    """
    status = CallStatus.of(error)
    info = status.info
    kind, hint = _kind(status.code, info.reason, status.message)
    return kind(
        status.message,
        code=status.code,
        reason=info.reason,
        metadata=info.metadata,
        field_violations=[FieldViolation(v.field, v.description) for v in status.violations],
        retry_delay=status.retry_delay,
        details=status.details,
        hint=hint.format(target=target),
    )


def cancelled_call() -> CancelledCallError:
    """The exception for a call that this side cancelled."""
    return CancelledCallError("the call was cancelled", code=grpc.StatusCode.CANCELLED)


def incomplete_stream() -> InternalError:
    """The exception for a stream that ended well, but without its ``completed`` event."""
    return InternalError(
        "the stream ended without its completed event, which the contract promises",
        code=grpc.StatusCode.INTERNAL,
    )


def _kind(code: grpc.StatusCode, reason: str, message: str) -> tuple[type[PenstockError], str]:
    """The class and the hint: a status that carries a reason of ours says itself what to do."""
    known = ErrorReason.DESCRIPTOR.values_by_name.get(f"ERROR_REASON_{reason}")
    if known is not None:
        return BY_REASON[ErrorReason.ValueType(known.number)], ""
    if not reason:
        for own in _GRPC_OWN:
            if own.code is code and re.search(own.pattern, message):
                return own.kind, own.hint
    return BY_CODE.get(code, PenstockError), ""
