"""What every local sidecar shares: from a provider that is asked to stream down to the engine.

One request's way: ``provider`` finds the ``model`` and loads it where needed, ``prompt`` turns
messages (``conversation``, ``images``) into token ids, an ``engine`` (``serial``) computes on its
own thread, ``job`` carries the tokens back to the event loop, ``text`` makes them text, ``reply``
the contract's events. ``command`` and ``checkpoint`` are what a sidecar's command line and a
model's files have in common.

What an answer may be besides text: ``abilities`` finds out what a model was taught, ``shaping``
what a request asks of that. ``splitter`` tells thoughts (``thinking``) and tool calls
(``tool_calls``, in one of the ``tool_formats``) apart; ``grammar`` and ``tool_grammar`` hold an
answer to a form, by a ``constraint`` that engines heed.

The sidecars add what computes (torch, mlx) and hand it in; none of it is imported here, so that
all of them behave the same.
"""
