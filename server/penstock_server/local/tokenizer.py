"""A model's tokenizer, as the other rooms see it. Both engines hand in transformers tokenizers.

What a request's messages are, and which of them a model can take, is ``prompt``'s to know.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from penstock_server.local.text import (
    Detokenizer,
    FastDetokenizer,
    MarkedDetokenizer,
    PlainDetokenizer,
    TextStream,
)
from penstock_server.local.token_names import TokenNames

# Decoding needs this many tokens of what stands before to see whether a space belongs between.
_CONTEXT = 8


class TemplateRefusal(Exception):
    """The chat template does not take this conversation; the message is the template's own."""


class TransformersTokenizer(Protocol):
    """The part of ``transformers.PreTrainedTokenizerBase`` that is used here."""

    chat_template: Any

    def apply_chat_template(self, conversation: list[dict[str, Any]], **options: Any) -> Any:
        """Token ids of a conversation."""
        ...

    def encode(self, text: str, **options: Any) -> Any:
        """Token ids of a text."""
        ...

    def decode(self, token_ids: Any, **options: Any) -> Any:
        """Text of token ids."""
        ...


class Tokenizer:
    """Encodes conversations and raw text, and makes streams of text.

    Threads: encoding and streams may be used at the same time from different threads, each of
    the two from one thread at a time.

    Example::

        tokenizer = Tokenizer(AutoTokenizer.from_pretrained(path))
        ids = tokenizer.encode_chat([{"role": "user", "content": "Hi"}])
    """

    def __init__(self, tokenizer: TransformersTokenizer) -> None:
        self._tokenizer = tokenizer
        self._fast = getattr(tokenizer, "backend_tokenizer", None)
        self._names: TokenNames | None = None

    @property
    def transformers(self) -> TransformersTokenizer:
        """What it was made of."""
        return self._tokenizer

    @property
    def has_chat_template(self) -> bool:
        """Whether conversations can be encoded."""
        return bool(self._tokenizer.chat_template)

    @property
    def template(self) -> str:
        """The chat template's text (with tools, where there are several); empty: there is none."""
        template = self._tokenizer.chat_template
        if isinstance(template, Mapping):
            template = template.get("tool_use") or template.get("default")
        return template if isinstance(template, str) else ""

    def token(self, text: str) -> int | None:
        """The id of the token that was added to the vocabulary for a text, if there is one."""
        added = getattr(self._tokenizer, "added_tokens_encoder", {})
        return added.get(text)

    def special(self, texts: Iterable[str]) -> dict[int, str]:
        """Those of the texts that are special tokens, by their ids: decoding leaves these out."""
        added = getattr(self._tokenizer, "added_tokens_decoder", {})
        ids = {self.token(text): text for text in texts}
        return {
            token: text
            for token, text in ids.items()
            if token is not None and token in added and added[token].special
        }

    def name(self, token: int) -> tuple[str, bytes]:
        """A token's text (incomplete characters show as U+FFFD), and its bytes (empty: unknown)."""
        if self._names is None:
            self._names = TokenNames(self._tokenizer, self._fast)
        return self._names(token)

    def ending(self, tokens: Sequence[int]) -> str:
        """The text at the end of a prompt, special tokens included."""
        last = list(tokens[-_CONTEXT * 2 :])
        return str(self._tokenizer.decode(last, skip_special_tokens=False))

    def encode_part(self, text: str) -> list[int]:
        """Token ids of a text that stands within others; markers become their tokens."""
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def encode_chat(self, messages: Sequence[Mapping[str, Any]], **variables: object) -> list[int]:
        """Token ids of a conversation, up to where the model's answer begins.

        ``messages`` have "role" and "content", and what else chat templates know; ``variables``
        are the template's own, such as ``enable_thinking`` or ``tools``. Raises
        `TemplateRefusal`.
        """
        try:
            ids = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                add_generation_prompt=True,
                return_dict=False,  # the default became True in transformers 5
                # A user who writes "<|im_end|>" gets these characters, not the end of the turn.
                sanitize_control_tokens=True,
                **variables,
            )
        except MemoryError:
            raise
        except Exception as error:  # templates are programs that come with models: anything
            raise TemplateRefusal(str(error) or type(error).__name__) from error
        return list(ids)

    def encode(self, text: str) -> list[int]:
        """Token ids of raw text, with the tokenizer's own beginning (such as ``<s>``)."""
        return list(self._tokenizer.encode(text))

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        text = self._tokenizer.decode(
            list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return str(text)

    def text_stream(self, stop: Sequence[str] = (), after: Sequence[int] = ()) -> TextStream:
        """A new answer's text; ``after`` are the token ids that it continues, if it does."""
        return TextStream(self.detokenizer(after), stop)

    def detokenizer(
        self, after: Sequence[int] = (), markers: Mapping[int, str] | None = None
    ) -> Detokenizer:
        """What turns a new answer's tokens into text.

        ``after`` are the token ids that it continues, if it does; ``markers`` are special tokens
        that are to be seen, with their texts.
        """
        context = after[-_CONTEXT:]

        def make() -> Detokenizer:
            if self._fast is None:
                return PlainDetokenizer(self.decode, context)
            return FastDetokenizer(self._fast, self.decode, context)

        return MarkedDetokenizer(make, markers) if markers else make()
