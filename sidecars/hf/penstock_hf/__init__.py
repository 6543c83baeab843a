"""The sidecar for Hugging Face models: the same server as the gateway, with a local provider.

``backend`` is what the engine's thread drives; ``loading`` brings a model into memory, ``running``
decides how it is run: for many at once by ``batch`` (in ``slots``, over which ``attention`` looks;
``prefixes`` keeps what was computed before; ``fitting`` tries whether a model can), else by
``alone``. ``sampling`` draws tokens, ``pictures`` reads images. Models that embed are run by
``embedding`` (``encoder``, ``sentences``); ``process`` has what loading does to all of the process.
Queue, text, prompts and states are the same for every kind of sidecar: ``penstock_server.local``.
"""
