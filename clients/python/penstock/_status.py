"""What a failed gRPC call carries: its code, its text, and the details behind them. Pure.

Which exception that makes is for ``errors`` to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

DOMAIN = "penstock"  # the ErrorInfo.domain of reasons that stand in the contract's registry

_DETAILS_KEY = "grpc-status-details-bin"

_MessageT = TypeVar("_MessageT", bound=Message)


@dataclass(frozen=True, slots=True)
class CallStatus:
    """What a call ended with. Reading it never fails: what cannot be decoded is passed over."""

    code: grpc.StatusCode
    message: str
    details: Sequence[AnyMessage] = ()

    @classmethod
    def of(cls, error: grpc.RpcError) -> CallStatus:
        """The status of a failed call, sync or aio.

        Not by grpc_status, which refuses a status whose details do not agree with its code, and
        so would hide one failure behind another.
        """
        if not isinstance(error, grpc.Call | grpc.aio.AioRpcError):
            return cls(grpc.StatusCode.UNKNOWN, str(error))
        details: list[AnyMessage] = []
        trailers: Any = error.trailing_metadata()  # None where no server was reached
        for key, value in trailers or ():
            if key == _DETAILS_KEY and isinstance(value, bytes):
                try:
                    details.extend(Status.FromString(value).details)
                except DecodeError:
                    continue
        return cls(error.code(), error.details() or "", details)

    @property
    def info(self) -> ErrorInfo:
        """Penstock's own ErrorInfo; empty where there is none."""
        info = self._detail(ErrorInfo)
        return info if info is not None and info.domain == DOMAIN else ErrorInfo()

    @property
    def violations(self) -> Sequence[BadRequest.FieldViolation]:
        """The request's wrong fields."""
        bad_request = self._detail(BadRequest)
        return () if bad_request is None else bad_request.field_violations

    @property
    def retry_delay(self) -> float | None:
        """Seconds after which calling again may help; None where that is not known."""
        retry = self._detail(RetryInfo)
        if retry is None or not retry.HasField("retry_delay"):
            return None
        return float(retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9)

    def _detail(self, kind: type[_MessageT]) -> _MessageT | None:
        for detail in self.details:
            if detail.TypeName() == kind.DESCRIPTOR.full_name:
                try:
                    return kind.FromString(detail.value)
                except DecodeError:
                    continue
        return None
