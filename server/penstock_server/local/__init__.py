"""What every local sidecar shares: from a provider that is asked to stream down to the engine.

One request's way: ``provider`` finds the ``model`` and loads it where needed, within the ``budget``
of memory that all models share; ``prompt`` turns messages (``conversation``, ``images``) into token
ids, an engine (``batching``, on a thread of its own: ``threaded``; who is next: ``admission``) has
a sidecar's ``backend`` compute, ``job`` carries the tokens back to the event loop, ``text`` makes
them text, ``reply`` the contract's events. Models that turn text into vectors have another engine,
``embedding``. ``command`` is what the sidecars' command lines have in common, ``checkpoint`` and
``survey`` what models' files have, ``memory`` and ``cgroup`` what machines have.

What an answer may be besides text: ``abilities`` finds out what a model was taught, ``shaping``
what a request asks of that. ``splitter`` tells thoughts (``thinking``) and tool calls
(``tool_calls``, in one of the ``tool_formats``) apart; ``grammar`` and ``tool_grammar`` hold an
answer to a form, by a ``constraint`` that engines heed.

The sidecars add what computes (torch, mlx) and hand it in, as a ``recipe`` for each model; none of
it is imported here, so that all of them behave the same.
"""
