"""The command line that all local sidecars have: argv, environment and file → a server.

What a sidecar has of its own (its name, its devices, what computes) it says in a `Command`. How
a model is loaded and run is not known here.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from penstock_server import config, telemetry
from penstock_server.assembly import Assembly
from penstock_server.compute import WAITING, default_threads
from penstock_server.local import survey
from penstock_server.local.budget import Budget
from penstock_server.local.engine import Engine
from penstock_server.local.flags import add_model_flags
from penstock_server.local.lifeline import watch_parent
from penstock_server.local.memory import memory
from penstock_server.local.provider import LocalProvider
from penstock_server.local.recipe import Look, Recipe
from penstock_server.process import run
from penstock_server.providers.sidecar import SIDECAR_PROVIDER

_MEMORY_SHARE = 0.8
"""The part of what is available at the start that models may take, where nobody says otherwise."""

_EPILOG = """\
examples:
{examples}

A model's NAME is how it is asked for ("local/NAME"); PATH is a directory, or a Hugging Face hub
id, which is downloaded. NAME may be left out: it is then the last part of PATH.
"""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Which model, and how it is to run.

    ``source`` is a directory or a Hugging Face hub id; ``device`` one of the sidecar's devices or
    "auto" (the best there is); ``dtype`` a floating-point type's name, "auto" (the checkpoint's
    own on an accelerator, float32 on a CPU, where seeds then promise the same answer) or
    "fastest" (bfloat16 on a CPU that computes with it, else like "auto"); ``threads`` how many
    CPU threads compute (0: the library's own choice); ``context_length`` bounds what the
    model's own context allows, in tokens (0: it does not); ``trust_remote_code`` whether Python
    code that comes with the model may run.

    ``prefill_chunk`` is how many tokens of prompts one step computes at most, ``max_batch`` how
    many requests are computed at a time, ``cache_memory`` how many bytes the keys and values of
    texts may take (each 0: the backend's own choice). ``attention`` is how attention is
    computed: "auto" (the backend's own choice), or what its library calls it.
    """

    source: str
    device: str = "auto"
    dtype: str = "auto"
    threads: int = 0
    context_length: int = 0
    trust_remote_code: bool = False
    prefill_chunk: int = 0
    max_batch: int = 0
    cache_memory: int = 0
    attention: str = "auto"


MakeEngine = Callable[[ModelSpec, str, int], Engine]
"""Makes the engine of a model: what it is, its name, how many requests may wait."""


@dataclass(frozen=True, slots=True)
class Command:
    """A sidecar's command, and what it has of its own.

    ``name`` is what the operator types, and the distribution's name, whose version it tells;
    ``serves`` says what kind of models; ``devices`` are what ``--device`` takes besides "auto",
    and ``other_devices`` says that the engine may know more (otherwise they are refused at
    once); ``attentions`` are what ``--attention`` takes besides "auto" (others are passed on as
    they are; without any there is no such flag); ``examples`` are arguments to show in
    ``--help``.

    ``make_embedding_engine`` makes the engines of models that turn text into vectors, where it
    runs such models. ``fetch`` brings the small files that say what a model is from the Hub into
    its cache, where they can be had. ``accelerator_memory`` tells how many bytes are free on the
    device that a name stands for, 0 where that computes in the machine's own memory.
    ``both_of_two``: see `default_threads`.

    Example::

        COMMAND = Command("penstock-hf", "Hugging Face models", make_engine, devices=("cpu",))
        sys.exit(COMMAND.main())
    """

    name: str
    serves: str
    make_engine: MakeEngine
    devices: Sequence[str]
    other_devices: bool = False
    attentions: Sequence[str] = ()
    examples: Sequence[str] = ()
    make_embedding_engine: MakeEngine | None = None
    fetch: Callable[[ModelSpec], None] | None = None
    accelerator_memory: Callable[[str], int] | None = None
    both_of_two: bool = False

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Run the sidecar until it is told to stop; returns the process's exit code.

        2 where the command line or the configuration is wrong, which is then said on stderr.
        """
        args = self.parser().parse_args(argv)
        if args.lifeline:
            watch_parent(sockets=args.listen or ())
        for name, value in WAITING.items():  # before anything that computes is imported
            os.environ.setdefault(name, value)
        try:
            settings = config.load(config.ServerConfig, args, os.environ, "PENSTOCK_SIDECAR_")
            self.recipes(args)  # so that what is wrong is said now
            telemetry.configure(settings.log)
            return run(settings, lambda: Assembly(providers=[self.provider(args)]), linked=True)
        except config.ConfigError as error:
            for line in str(error).splitlines():
                print(f"{self.name}: {line}", file=sys.stderr)  # noqa: T201 # the command's answer
            return 2

    def parser(self) -> argparse.ArgumentParser:
        """The command line."""
        examples = "\n".join(f"  {self.name} {example}" for example in self.examples)
        parser = argparse.ArgumentParser(
            prog=self.name,
            description=f"Serve local {self.serves} over gRPC, as Penstock's sidecar or alone.",
            epilog=_EPILOG.format(examples=examples),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        own_version = f"{self.name} {version(self.name)}"
        parser.add_argument("--version", action="version", version=own_version)
        add_model_flags(
            parser.add_argument_group("models"),
            devices=self.devices,
            other_devices=self.other_devices,
            attentions=self.attentions,
            both_of_two=self.both_of_two,
        )
        parser.add_argument(
            "--lifeline", action="store_true", help="exit when stdin ends, with who started this"
        )
        config.add_arguments(parser)
        return parser

    def provider(self, args: argparse.Namespace) -> LocalProvider:
        """The sidecar's one provider, not yet started."""
        left = memory().available  # now, before anything is loaded

        def limit() -> int:
            if args.memory:
                return int(args.memory)
            accelerator = self.accelerator_memory(args.device) if self.accelerator_memory else 0
            return int((accelerator or left) * _MEMORY_SHARE)

        return LocalProvider(
            SIDECAR_PROVIDER,
            self.recipes(args),
            preload=[] if args.lazy else None,
            budget=Budget(limit, args.cache_memory),
            keep_alive=args.keep_alive,
        )

    def recipes(self, args: argparse.Namespace) -> Mapping[str, Recipe]:
        """How each model's engine is made, by the model's name."""
        recipes: dict[str, Recipe] = {}
        for argument in args.model:
            name, source = _name_and_source(argument)
            if name in recipes:
                raise config.ConfigError(f"--model {argument}: the name {name!r} is used twice")
            spec = ModelSpec(
                source,
                device=args.device,
                dtype=args.dtype,
                threads=args.threads or default_threads(both_of_two=self.both_of_two),
                context_length=args.context_length,
                trust_remote_code=args.trust_remote_code,
                prefill_chunk=args.prefill_chunk,
                max_batch=args.max_batch,
                cache_memory=args.cache_memory,
                attention=getattr(args, "attention", "auto"),
            )
            recipes[name] = _CommandRecipe(self, spec, name, args.max_queue)
        return recipes


@dataclass(frozen=True, slots=True)
class _CommandRecipe(Recipe):
    """How a model of the command line is made."""

    command: Command
    spec: ModelSpec
    name: str
    max_waiting: int

    def look(self, fetch: bool) -> Look | None:
        """See `Recipe.look`."""
        directory = survey.find(self.spec.source)
        if directory is None and fetch and self.command.fetch is not None:
            self.command.fetch(self.spec)
            directory = survey.find(self.spec.source)
        if directory is None:
            return Look() if fetch else None
        embeds = self.command.make_embedding_engine is not None and survey.embeds(directory)
        return Look(survey.weights_bytes(directory, self._dtype()), embeds)

    def make(self, look: Look, cache_memory: int) -> Engine:
        """See `Recipe.make`."""
        make = self.command.make_embedding_engine if look.embeds else self.command.make_engine
        assert make is not None  # looked for before
        spec = replace(self.spec, cache_memory=cache_memory)
        return make(spec, self.name, self.max_waiting)

    def _dtype(self) -> str:
        """What the weights become: by default float32 on a CPU, and what they are elsewhere."""
        if self.spec.dtype not in ("auto", "fastest"):
            return self.spec.dtype
        return "float32" if self.spec.device in ("auto", "cpu") else "auto"


def _name_and_source(argument: str) -> tuple[str, str]:
    name, equals, source = argument.partition("=")
    if not equals:
        name, source = Path(argument).name, argument
    if not name or not source:
        raise config.ConfigError(f"--model {argument}: write NAME=PATH, or PATH")
    return name, source
