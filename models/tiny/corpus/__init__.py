"""The training text of the tiny model: a grammar that writes conversations in plain English.

All of its sentences were written for this project, so neither the text nor a model trained on it
carries anybody else's licence. `conversations(seed)` yields as many conversations as are needed,
and always the same ones for the same seed.
"""

from .dialogue import conversation, conversations, normalised
from .words import Exchange, Message

__all__ = ["Exchange", "Message", "conversation", "conversations", "normalised"]
