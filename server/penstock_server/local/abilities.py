"""What a model can do besides writing text: tools, thoughts, forms; found out once a model.

From its chat template and vocabulary. What of that a request asks for is ``shaping``'s to know.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from penstock import v1

from penstock_server.errors import Failure
from penstock_server.local import thinking, tool_formats
from penstock_server.local.grammar import Grammar
from penstock_server.local.tokenizer import Tokenizer
from penstock_server.local.tool_formats import HERMES, ToolFormat


class Abilities:
    """What one model can do.

    Threads: `prepare` and `grammar` belong on a worker's, one at a time; all else anywhere.

    Example::

        abilities = Abilities(tokenizer, 32_000, {2})
        abilities.prepare()
        v1.CAPABILITY_JSON_SCHEMA in abilities.capabilities
    """

    def __init__(self, tokenizer: Tokenizer, vocabulary: int, end: Collection[int]) -> None:
        template = tokenizer.template
        self.has_template = tokenizer.has_chat_template
        self.template_format: ToolFormat | None = tool_formats.detect(template)
        """The format of tool calls that the chat template teaches; None: tools have to be told."""
        self.tags: thinking.Tags | None = None
        """How thoughts are marked; None: the model has none."""
        if self.has_template:
            self.tags = thinking.detect(template, lambda text: tokenizer.token(text) is not None)
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._end = end
        self._grammar: Grammar | Failure | None = None

    @property
    def format(self) -> ToolFormat:
        """How the model is to write tool calls."""
        return self.template_format or HERMES

    def prepare(self) -> None:
        """Find out what takes its time: up to a second for a large vocabulary."""
        if self._grammar is None:
            try:
                self._grammar = Grammar(self._tokenizer, self._vocabulary, self._end)
            except Failure as failure:
                self._grammar = failure

    def grammar(self, feature: str) -> Grammar:
        """What compiles forms; UNSUPPORTED_FEATURE, naming ``feature``, where nothing can."""
        self.prepare()
        if isinstance(self._grammar, Failure):
            raise Failure.unsupported(feature, self._grammar.message)
        assert self._grammar is not None
        return self._grammar

    @property
    def capabilities(self) -> Sequence[v1.Capability.ValueType]:
        """In the contract's words; those that need a grammar only once `prepare` found one."""
        found: list[v1.Capability.ValueType] = []
        if self.has_template:
            found.append(v1.CAPABILITY_TOOLS)
        if self.tags is not None:
            found.append(v1.CAPABILITY_THINKING)
        if isinstance(self._grammar, Grammar):
            found += [v1.CAPABILITY_JSON_OBJECT, v1.CAPABILITY_JSON_SCHEMA]
        return found
