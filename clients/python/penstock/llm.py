"""One model, as AbstractCore's users know it: every call in both flavours, side by side.

`create_llm` makes an `LLM`; what it does is written once, in ``_core``. Conversations that
remember are ``session``'s, many calls at once ``batch``'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar

from penstock import _about, aio, sync
from penstock._channel import Metadata, Options, TLSOptions
from penstock._core import UNSET, Connection, Core
from penstock._flavours import run
from penstock._generating import Generating
from penstock._tool_loop import ToolCalling
from penstock.batch import Batching
from penstock.events import EventEmitter, GlobalEventBus

if TYPE_CHECKING:
    from pydantic import BaseModel

_ModelT = TypeVar("_ModelT", bound="BaseModel")


def create_llm(provider: str, model: str | None = None, **kwargs: Any) -> LLM:
    """An `LLM`: one model of one Penstock server. Nothing is connected to before the first call.

    Args:
        provider: the provider's name on the server, such as "openai" or "local"; a full model
            name, "local/tiny", will do, too. Capitals make no difference.
        model: the model's name with that provider. Default: a small one of OpenAI's and
            Anthropic's, of others the only one that there is.
        **kwargs: see `LLM`.

    Example::

        llm = create_llm("openai", model="gpt-4o-mini", temperature=0)
        print(llm.generate("Name a river.").content)
    """
    return LLM(provider, model, **kwargs)


async def acreate_llm(provider: str, model: str | None = None, **kwargs: Any) -> LLM:
    """`create_llm`'s twin: the same object, which has both flavours.

    Example::

        llm = await acreate_llm("openai", model="gpt-4o-mini")
        print((await llm.agenerate("Name a river.")).content)
    """
    return LLM(provider, model, **kwargs)


class LLM(Generating, Batching, ToolCalling):
    """One model of one Penstock server, in both flavours: ``generate`` and ``agenerate``, ….

    It may be shared by threads, and used by one event loop after the other or by several at
    once. A program that only makes synchronous calls never starts an event loop.

    Args:
        provider, model: see `create_llm`.
        target, token, tls, metadata, options: the server; see `penstock.Client`. ``base_url``
            and ``api_key`` are not taken: the server has the providers' addresses and keys.
        timeout: seconds that a call may take, unless it says otherwise. None, or 0: no limit.
        max_tokens: the context that prompt and answer may take together, in tokens.
        max_input_tokens, max_output_tokens: the parts of it. Of the three, any two give the
            third. ``max_output_tokens`` bounds every answer; the others are for the program's
            own planning, since only the model's tokenizer can count.
        temperature, seed, top_p, …: what calls use unless they say otherwise; all that
            `penstock.GenerateOptions` has. What nobody says is left to the provider.
        tool_timeout: seconds that each tool of `run_tools` may take. None: no limit.
        events: where its events go first; they go on to `penstock.GlobalEventBus`.

    Example::

        with create_llm("local", "tiny", max_output_tokens=100) as llm:
            print(llm.generate("Name a river.").content)
    """

    def __init__(
        self,
        provider: str,
        model: str | None = None,
        *,
        target: str | None = None,
        token: str | None = None,
        tls: bool | TLSOptions | None = None,
        metadata: Metadata | None = None,
        options: Options | None = None,
        timeout: float | None = None,
        tool_timeout: float | None = None,
        max_tokens: int | None = None,
        max_input_tokens: int | None = None,
        max_output_tokens: int | None = None,
        events: EventEmitter | None = None,
        **defaults: Any,
    ) -> None:
        provider, name = _names(provider, model)
        for unknown in ("base_url", "api_key"):
            if unknown in defaults:
                raise TypeError(f"{unknown}: the Penstock server has it; see providers.{provider}")
        self.max_tokens, self.max_input_tokens, self.max_output_tokens = _budget(
            max_tokens, max_input_tokens, max_output_tokens
        )
        self.tool_timeout = tool_timeout
        self.events = events or EventEmitter(parent=GlobalEventBus.emitter)
        to: dict[str, Any] = {"token": token, "tls": tls, "metadata": metadata, "options": options}
        self._core = Core(
            provider,
            name,
            lambda: Connection(sync.Client(target, **to), aio.Client(target, **to)),
            timeout=timeout,
            defaults={**defaults, "max_output_tokens": self.max_output_tokens},
            events=self.events,
        )
        self._core.question("?")  # what is wrong with the defaults is said now

    def __repr__(self) -> str:
        return f"LLM({self.provider!r}, {self.model!r})"

    @property
    def provider(self) -> str:
        """The provider's name on the server."""
        return self._core.provider

    @property
    def model(self) -> str | None:
        """The model's name; None while the provider has not been asked which it has."""
        return self._core.model

    @property
    def client(self) -> sync.Client:
        """The client beneath the synchronous calls, for what they do not cover."""
        return self._core.connection.blocking

    @property
    def async_client(self) -> aio.Client:
        """The client beneath the asynchronous calls."""
        return self._core.connection.asynchronous

    # What there is.

    def get_capabilities(self) -> list[str]:
        """What the model can do, in AbstractCore's words: "chat", "streaming", "tools", ….

        Example::

            "vision" in llm.get_capabilities()
        """
        return run(_about.capabilities(self._core, self._core.blocking))

    async def aget_capabilities(self) -> list[str]:
        """`get_capabilities`' twin."""
        return await _about.capabilities(self._core, self._core.asynchronous)

    def get_media_types(self) -> list[str]:
        """What ``media`` the model takes: "text/*", and "image/*" and the like where it can."""
        return run(_about.media_types(self._core, self._core.blocking))

    async def aget_media_types(self) -> list[str]:
        """`get_media_types`' twin."""
        return await _about.media_types(self._core, self._core.asynchronous)

    def list_available_models(self) -> list[str]:
        """The provider's models."""
        return run(self._core.models(self._core.blocking))

    async def alist_available_models(self) -> list[str]:
        """`list_available_models`' twin."""
        return await self._core.models(self._core.asynchronous)

    def health(self, timeout: float = 5.0) -> dict[str, Any]:
        """Whether the provider can be asked: ``{"status": "healthy" or "unhealthy", "provider",
        "models", "model_count", "error", "latency_ms"}``. Does not raise for what is wrong there.
        """
        return run(_about.health(self._core, self._core.blocking, timeout))

    async def ahealth(self, timeout: float = 5.0) -> dict[str, Any]:
        """`health`'s twin."""
        return await _about.health(self._core, self._core.asynchronous, timeout)

    # Vectors.

    def embed(self, input_text: str | Sequence[str], **options: Any) -> dict[str, Any]:
        """Texts as vectors, in the shape of OpenAI's API: ``{"object": "list", "data":
        [{"object": "embedding", "embedding": [...], "index": 0}, ...], "model", "usage"}``.

        ``options`` are dimensions, timeout and provider_options. Raises where it fails: there
        are no vectors of zeros here.
        """
        return run(_about.embed(self._core, self._core.blocking, input_text, **options))

    async def aembed(self, input_text: str | Sequence[str], **options: Any) -> dict[str, Any]:
        """`embed`'s twin."""
        return await _about.embed(self._core, self._core.asynchronous, input_text, **options)

    # Local models.

    def load_model(
        self,
        model_name: str | None = None,
        *,
        on_progress: Callable[[float, str], object] | None = None,
        timeout: float | None = UNSET,
    ) -> None:
        """Have a local model brought into memory, and wait until it is there.

        ``on_progress`` is told how far that is (0 to 1), and the stage; ``timeout`` is as in
        `generate`.
        """
        run(_about.load(self._core, self._core.blocking, model_name, on_progress, timeout))

    async def aload_model(
        self,
        model_name: str | None = None,
        *,
        on_progress: Callable[[float, str], object] | None = None,
        timeout: float | None = UNSET,
    ) -> None:
        """`load_model`'s twin."""
        await _about.load(self._core, self._core.asynchronous, model_name, on_progress, timeout)

    def unload_model(self, model_name: str | None = None) -> None:
        """Free a local model's memory, once its running answers are finished."""
        run(_about.unload(self._core, self._core.blocking, model_name))

    async def aunload_model(self, model_name: str | None = None) -> None:
        """`unload_model`'s twin."""
        await _about.unload(self._core, self._core.asynchronous, model_name)

    # Closing.

    def __enter__(self) -> Self:
        self.client.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        await self.async_client.__aenter__()
        self.client.__enter__()  # `aclose` closes both
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def close(self) -> None:
        """Close the synchronous connection, and cancel what runs on it.

        Event loops close theirs when they end.
        """
        self._core.close()

    async def aclose(self) -> None:
        """Close both connections, this event loop's and the synchronous one."""
        await self.async_client.close()
        self._core.close()


def _names(provider: str, model: str | None) -> tuple[str, str | None]:
    """Provider and model, from either "local", "tiny" or "local/tiny"."""
    first, slash, rest = provider.partition("/")
    if slash and model:
        raise ValueError(f"{provider!r} names a model already; leave out model={model!r}")
    first = first.lower()
    if not first:
        raise ValueError("provider: must not be empty")
    return first, rest or model or None


def _budget(
    whole: int | None, inputs: int | None, outputs: int | None
) -> tuple[int | None, int | None, int | None]:
    """The three token limits; what two of them say of the third."""
    for name, value in (("max_tokens", whole), ("max_input_tokens", inputs),
                        ("max_output_tokens", outputs)):  # fmt: skip
        if value is not None and value < 1:
            raise ValueError(f"{name}: must be at least 1")
    if whole is not None:
        if max(inputs or 0, outputs or 0) >= whole:
            raise ValueError("max_tokens: must be more than max_input_tokens and max_output_tokens")
        if inputs is not None and outputs is not None and inputs + outputs > whole:
            raise ValueError(
                "max_tokens: is less than max_input_tokens and max_output_tokens add up to"
            )
        if inputs is not None and outputs is None:
            outputs = whole - inputs
        elif outputs is not None and inputs is None:
            inputs = whole - outputs
    elif inputs is not None and outputs is not None:
        whole = inputs + outputs
    return whole, inputs, outputs
