"""What answers inside of a Python program: the contenders of ``local.py`` that are no servers.

Each gives its text to the event loop token by token, decoded in the thread that computes. torch
keeps its own choice of threads, since that is what a program gets that sets nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

from benchmarks.local_load import Ask, Hear
from benchmarks.local_model import Question


class _Left(Exception):
    """Nobody waits for this answer any more."""


def _load(options: Mapping[str, Any]) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    tokenizer = AutoTokenizer.from_pretrained(options["directory"])
    dtype = getattr(torch, options["dtype"])
    return AutoModelForCausalLM.from_pretrained(options["directory"], dtype=dtype), tokenizer


def _prompt(tokenizer: Any, question: Question) -> list[int]:
    messages = [{"role": "user", "content": question.prompt}]
    encoded = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    ids: list[int] = encoded if isinstance(encoded, list) else encoded["input_ids"]  # mlx-lm: ids
    return ids


def _decoder(directory: str) -> Any:
    """Makes functions from token to text, one for each answer."""
    from tokenizers import Tokenizer
    from tokenizers.decoders import DecodeStream

    tokenizer = Tokenizer.from_file(str(Path(directory) / "tokenizer.json"))

    def new() -> Any:
        stream = DecodeStream(skip_special_tokens=True)
        return lambda token: stream.step(tokenizer, token)

    return new


@asynccontextmanager
async def to_thread(options: Mapping[str, Any], callers: int) -> AsyncIterator[Ask]:
    """``asyncio.to_thread(model.generate)``, with a lock around it where ``locked``.

    ``to_thread`` has the threads of asyncio's default executor: min(32, cores + 4).
    """
    import torch

    model, tokenizer = _load(options)
    new_decoder = _decoder(options["directory"])
    loop = asyncio.get_running_loop()
    lock = asyncio.Lock() if options["locked"] else nullcontext()

    class Streamer:
        """Like transformers' own, but as cheap as can be: no text is decoded twice."""

        def __init__(self, hear: Hear) -> None:
            self.left = threading.Event()
            self.tokens = 0
            self._hear = hear
            self._decode = new_decoder()
            self._is_prompt = True

        def put(self, value: Any) -> None:
            if self._is_prompt:
                self._is_prompt = False
                return
            if self.left.is_set():
                raise _Left
            self.tokens += 1
            text = self._decode(int(value[0]))
            if text:
                loop.call_soon_threadsafe(self._hear, text)

        def end(self) -> None:
            """Nothing is held back."""

    def generate(question: Question, streamer: Streamer) -> None:
        ids = torch.tensor([_prompt(tokenizer, question)])
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=question.tokens,
            do_sample=False,
            streamer=streamer,
        )

    async def ask(question: Question, hear: Hear) -> int:
        streamer = Streamer(hear)
        async with lock:
            try:
                await asyncio.to_thread(generate, question, streamer)
            except asyncio.CancelledError:
                streamer.left.set()
                raise
        return streamer.tokens

    yield ask


@asynccontextmanager
async def continuous(options: Mapping[str, Any], callers: int) -> AsyncIterator[Ask]:
    """transformers' own continuous batching, its results by callback as its own server has them.

    The cache's size is given (in blocks of 256 tokens), since the default takes 60 % of the memory
    that is free.
    """
    from transformers import ContinuousBatchingConfig, GenerationConfig

    model, tokenizer = _load(options)
    new_decoder = _decoder(options["directory"])
    # Greedy by do_sample: a temperature of 0 would end its loop for good.
    greedy = GenerationConfig(do_sample=False, eos_token_id=-1)  # type: ignore[no-untyped-call]
    manager = model.init_continuous_batching(
        generation_config=greedy,
        continuous_batching_config=ContinuousBatchingConfig(
            num_blocks=options["blocks"], max_batch_tokens=options["batch_tokens"]
        ),
    )
    manager.start()
    names = itertools.count()

    async def ask(question: Question, hear: Hear) -> int:
        name = f"r{next(names)}"
        decode = new_decoder()
        finished: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        known = 0

        def on_output(output: Any) -> None:
            nonlocal known
            tokens = output.generated_tokens  # all there are so far
            text = "".join(decode(token) or "" for token in tokens[known:])
            known = len(tokens)
            if text:
                hear(text)
            if output.error is not None and not finished.done():
                finished.set_exception(RuntimeError(output.error))
            elif output.is_finished() and not finished.done():
                finished.set_result(known)

        manager.register_result_handler(name, on_output)
        prompt = _prompt(tokenizer, question)
        added = manager.add_request(
            prompt, request_id=name, max_new_tokens=question.tokens, streaming=True
        )
        if added is None:
            raise RuntimeError("its loop has ended")
        try:
            return await finished
        except asyncio.CancelledError:
            manager.cancel_request(name)
            raise

    try:
        yield ask
    finally:
        manager.stop(block=True, timeout=10, hard_stop=True)


@asynccontextmanager
async def mlx_thread(options: Mapping[str, Any], callers: int) -> AsyncIterator[Ask]:
    """``mlx_lm.stream_generate`` in ``asyncio.to_thread``, one at a time.

    There is no row without the lock: threads must not compute with the same mlx arrays at once.
    """
    import mlx_lm

    model, tokenizer, *_ = mlx_lm.load(options["directory"])  # not lazily: other threads compute
    new_decoder = _decoder(options["directory"])
    loop = asyncio.get_running_loop()
    lock = asyncio.Lock()

    def generate(question: Question, hear: Hear, left: threading.Event) -> int:
        tokens = 0
        decode = new_decoder()
        prompt = _prompt(tokenizer, question)
        for response in mlx_lm.stream_generate(
            model, tokenizer, prompt, max_tokens=question.tokens
        ):
            tokens += 1
            text = decode(response.token)
            if text:
                loop.call_soon_threadsafe(hear, text)
            if left.is_set():
                break
        return tokens

    async def ask(question: Question, hear: Hear) -> int:
        left = threading.Event()
        async with lock:
            try:
                return await asyncio.to_thread(generate, question, hear, left)
            except asyncio.CancelledError:
                left.set()
                raise

    yield ask
