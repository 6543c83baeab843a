"""What every local sidecar shares: from a provider that is asked to stream down to the engine.

One request's way: ``provider`` finds the ``model`` and loads it where needed, within the
``budget`` of memory that all models share; ``prompt`` turns messages into token ids, an engine
(``batching``, on a thread of its own: ``threaded``) computes, ``job`` carries the tokens back to
the event loop, ``text`` makes them text. Models that turn text into vectors have another engine,
``embedding``. ``command`` is what the sidecars' command lines have in common, ``checkpoint`` and
``survey`` what models' files have, ``memory`` and ``cgroup`` what machines have. The sidecars add
what computes (torch, mlx) and hand it in, as a ``recipe``; none of it is imported here, so that
all of them behave the same.
"""
