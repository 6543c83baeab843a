"""A model's tokenizer, as the other rooms see it. Both engines hand in transformers tokenizers.

What a request's messages are, and which of them a model can take, is ``prompt``'s to know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from penstock_server.local.text import (
    Detokenizer,
    FastDetokenizer,
    PlainDetokenizer,
    TextStream,
)

# Decoding needs this many tokens of what stands before to see whether a space belongs between.
_CONTEXT = 8


class TemplateRefusal(Exception):
    """The chat template does not take this conversation; the message is the template's own."""


class TransformersTokenizer(Protocol):
    """The part of ``transformers.PreTrainedTokenizerBase`` that is used here."""

    chat_template: Any

    def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> Any:
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

    @property
    def has_chat_template(self) -> bool:
        """Whether conversations can be encoded."""
        return bool(self._tokenizer.chat_template)

    def encode_chat(self, messages: Sequence[Mapping[str, str]], **variables: object) -> list[int]:
        """Token ids of a conversation, up to where the model's answer begins.

        ``messages`` have "role" and "content"; ``variables`` are the template's own, such as
        ``enable_thinking``. Raises `TemplateRefusal`.
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
        context = after[-_CONTEXT:]
        detokenizer: Detokenizer = (
            PlainDetokenizer(self.decode, context)
            if self._fast is None
            else FastDetokenizer(self._fast, self.decode, context)
        )
        return TextStream(detokenizer, stop)
