"""What a provider can be told in the configuration.

What it means is ``gateway``'s business, and ``network``'s.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self, get_args

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    model_validator,
)

from penstock_server.limit_settings import CallLimits
from penstock_server.local.memory import parse_size
from penstock_server.sections import Section, Strings


def _size(value: object) -> object:
    return parse_size(value) if isinstance(value, str) else value


Size = Annotated[PositiveInt, BeforeValidator(_size)]
"""A number of bytes, or text such as "8GiB"."""


class SidecarTls(Section):
    """How sidecars elsewhere are reached by TLS: files in PEM format, read anew when they change.

    Its being there turns TLS on, also where it says nothing.
    """

    ca: str = ""
    """Whose certificates the sidecars have to show. Default: the authorities that gRPC trusts."""
    cert: str = ""
    """The gateway's own certificate, for sidecars that ask for one (mutual TLS)."""
    key: str = ""
    """Its private key."""
    server_name: str = ""
    """The name in the sidecars' certificates, where that is not their address."""

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        if bool(self.cert) != bool(self.key):
            raise ValueError("cert and key go together")
        return self


class SidecarSettings(Section):
    """A provider whose models run in sidecar processes of our own.

    Either ``models`` (the gateway starts and watches a sidecar that owns them) or ``addresses``
    (sidecars that run elsewhere and own the same models: one pool).
    """

    kind: Literal["sidecar"]
    engine: Literal["hf", "mlx"] = "hf"
    models: dict[str, str] = Field(default_factory=dict)
    """Name → model directory or Hugging Face hub id."""
    addresses: Strings = Field(default_factory=list)
    tls: SidecarTls | None = None
    """How ``addresses`` are reached. Default: in the clear. Unix sockets do without."""
    affinity: bool = True
    """Whether prompts that begin alike go to the same one of ``addresses``, which has computed the
    beginning already, unless it is much busier than the others."""
    python: str = ""
    """The Python that has the engine installed. Default: the gateway's own."""
    device: str = "auto"
    dtype: str = "auto"
    threads: PositiveInt | None = None
    """CPU threads to compute with. Default: one less than there are cores; engine "hf" takes both
    of two."""
    max_queue: PositiveInt = 256
    """How many requests may wait for the engine before it answers OVERLOADED."""
    lazy: bool = False
    """Whether models are loaded when they are first asked for, instead of at the start."""
    keep_alive: NonNegativeFloat | None = None
    """After how many seconds without a call a model is unloaded. Default: never."""
    memory: Size | None = None
    """The most that all models of the sidecar may take together. Default: most of what there
    is when it starts."""
    cache_memory: Size | None = None
    """The most that the keys and values of a model's texts may take. Default: a share of what
    the weights leave."""
    context_length: PositiveInt | None = None
    """Bounds prompt and answer together, in tokens. Default: what the model can."""
    prefill_chunk: PositiveInt | None = None
    """How many tokens of prompts are computed between others' tokens. Default: the engine's."""
    max_batch: PositiveInt | None = None
    """How many requests are computed at a time. Default: the engine's."""
    attention: str = "auto"
    """How attention is computed: "sdpa", "eager", or what else transformers knows."""
    trust_remote_code: bool = False
    """Whether models may bring Python code of their own, which then runs in the sidecar."""
    limits: CallLimits = CallLimits()
    """How much all callers together may ask of it."""
    ready_timeout: PositiveFloat | None = None
    """How long a call waits, in seconds, for a sidecar that is not there yet. Default: 60 where
    the gateway starts it, 5 where it runs elsewhere."""
    silence_timeout: NonNegativeFloat = 60.0
    """How long, in seconds, a sidecar that the gateway started may leave health checks unanswered
    before it is killed and started anew; 0: for ever."""

    @model_validator(mode="after")
    def _models_or_addresses(self) -> Self:
        if bool(self.models) == bool(self.addresses):
            raise ValueError("set either models (started here) or addresses (started elsewhere)")
        if self.tls is not None and self.models:
            raise ValueError("tls is for addresses: what is started here has a private socket")
        return self

    @model_validator(mode="after")
    def _attention_where_known(self) -> Self:
        if self.attention != "auto" and self.engine != "hf":
            raise ValueError(f'engine "{self.engine}" has one attention only: leave attention out')
        return self


class RetrySettings(Section):
    """When a call is tried again; see ``retry.RetryPolicy``. Pauses are in seconds."""

    attempts: PositiveInt = 3
    """How often a call is tried in all; 1: never again."""
    first_pause: PositiveFloat = 0.5
    max_pause: PositiveFloat = 8.0
    max_retry_after: NonNegativeFloat = 30.0
    """The longest pause that a provider may ask for; beyond it, the caller is told at once."""


NetworkKind = Literal[
    "openai",
    "azure",
    "anthropic",
    "bedrock",
    "vertex",
    "ollama",
    "lmstudio",
    "vllm",
    "llamacpp",
    "sglang",
    "tgi",
    "mlx",
    "transformers",
    "openrouter",
    "groq",
    "mistral",
    "deepseek",
    "together",
    "xai",
    "gemini",
    "openai-compatible",
]
NETWORK_KINDS: tuple[str, ...] = get_args(NetworkKind)


class NetworkSettings(Section):
    """A provider that is reached over HTTP."""

    kind: NetworkKind
    base_url: str = ""
    """Default: the usual one of its kind. Required with "openai-compatible"."""
    api_key: SecretStr = SecretStr("")
    """Better: api_key_env, which keeps the key out of the file."""
    api_key_env: str = ""
    """The environment variable that holds the key. Default: the usual one of its kind."""
    api: Literal["", "responses", "chat"] = ""
    """Which of OpenAI's APIs to speak. Default: "responses" to OpenAI and Azure, else "chat"."""
    organization: str = ""
    """OpenAI's organization."""
    project: str = ""
    """OpenAI's project, or Google Cloud's for kind "vertex"."""
    api_version: str = ""
    """Azure's api-version."""
    region: str = ""
    """The cloud's region, for kinds "bedrock" and "vertex"."""
    profile: str = ""
    """The profile in ~/.aws that holds the credentials, for kind "bedrock"."""
    connect_timeout: PositiveFloat = 5.0
    first_event_timeout: PositiveFloat = 600.0
    """From the request to the first event of the answer, in seconds: models load and think."""
    idle_timeout: PositiveFloat = 120.0
    """The longest silence in the middle of an answer, in seconds."""
    max_connections: PositiveInt = 4096
    """The most connections to it at a time; a call that finds none waits for one."""
    limits: CallLimits = CallLimits()
    """How much all callers together may ask of it."""
    retry: RetrySettings = RetrySettings()

    @model_validator(mode="after")
    def _base_url_where_unknown(self) -> Self:
        if self.kind == "openai-compatible" and not self.base_url:
            raise ValueError('kind "openai-compatible" needs base_url')
        return self


ProviderSettings = Annotated[SidecarSettings | NetworkSettings, Field(discriminator="kind")]
ProviderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
PROVIDER_SECTIONS = (SidecarSettings, SidecarTls, NetworkSettings, RetrySettings)
