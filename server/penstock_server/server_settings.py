"""What gateway and sidecars alike can be told of themselves in the configuration.

What it means is ``app``'s business, ``tls``', ``telemetry``'s and ``metrics``'.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from penstock_server.sections import Section

MIB = 1024 * 1024


class Limits(Section):
    """How much the server takes."""

    max_message_bytes: PositiveInt = 64 * MIB
    """The largest message, in bytes."""
    unread_timeout: NonNegativeFloat = 300.0
    """How long, in seconds, a stream's next message may wait for a caller who does not read; then
    the call is ended. 0: for ever."""


class Keepalive(Section):
    """How connections are kept alive through silence, in seconds."""

    interval: PositiveFloat = 60.0
    """The server pings a silent client this often, to notice that it is gone."""
    timeout: PositiveFloat = 20.0
    """A ping that is not answered within this time ends the connection."""
    min_client_interval: PositiveFloat = 5.0
    """Clients may ping this often, also while nothing is said: a long prefill is silent."""
    max_connection_age: NonNegativeFloat = 0.0
    """A connection that is so old takes no more calls, those on it finish, and the client connects
    anew: to another server, where there are more now. gRPC varies it by a tenth. 0: never."""
    max_connection_age_grace: NonNegativeFloat = 0.0
    """How long calls may go on after that, before they are cut; 0: until they are done."""


class Shutdown(Section):
    """How the server stops, in seconds."""

    notice: NonNegativeFloat = 0.5
    """How long calls are still taken after health says NOT_SERVING, so that balancers notice."""
    drain: NonNegativeFloat = 30.0
    """How long running calls may go on after that."""


class Log(Section):
    """What is logged, to stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["human", "json"] = "human"
    prompts: bool = False
    """Whether prompts and answers are logged. They are private: never by default."""


class Metrics(Section):
    """Figures for Prometheus."""

    listen: Annotated[str, Field(pattern=r"^(([^:\[\]]+|\[[^\]]+\]):\d+)?$")] = ""
    """Where they are asked for by HTTP, at /metrics: "host:port". Default: nowhere. Whoever reaches
    it reads the names of what is configured, and how much is asked of it."""


class Tls(Section):
    """What the server proves itself with, and asks of callers: files in PEM format.

    They are read anew when they change. Unix sockets do without.
    """

    cert: str = ""
    """The server's certificate, with the chain above it. Default: no TLS."""
    key: str = ""
    """Its private key."""
    client_ca: str = ""
    """Whose certificates callers have to show. Default: they need none."""

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        if bool(self.cert) != bool(self.key):
            raise ValueError("cert and key go together")
        if self.client_ca and not self.cert:
            raise ValueError("client_ca needs cert and key")
        return self


SERVER_SECTIONS = (Tls, Limits, Keepalive, Shutdown, Log, Metrics)
