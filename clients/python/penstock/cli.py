"""The ``penstock`` command: asking models, and looking after them, from a shell.

It only parses, calls `penstock.Client` and prints. Answers go to stdout, everything else to
stderr. Exit codes: 0 well; 1 the call failed, or the server is not SERVING; 2 wrong usage;
130 interrupted (the call is cancelled on the server, too); 141 nobody reads the output any more.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import penstock
from penstock import v1
from penstock._channel import DEFAULT_TARGET, TARGET_VARIABLE, TOKEN_VARIABLE
from penstock._render import (
    MODEL_COLUMNS,
    as_json,
    failure_line,
    model_facts,
    model_row,
    said,
    summary,
    table,
    vector,
)

MODEL_VARIABLE = "PENSTOCK_MODEL"
DEFAULT_MODEL = "local/tiny"

FAILED, USAGE, INTERRUPTED, BROKEN_PIPE = 1, 2, 130, 141

_EPILOG = f"""\
examples:
  penstock generate "Name three rivers."
  git diff | penstock generate --system "Write a commit message." --model openai/gpt-5-nano
  penstock generate --json --seed 7 "Hi" | jq -r '.message.parts[0].text'
  penstock models --target grpcs://gateway.example.com
  penstock load local/tiny
  penstock pull ollama/qwen3:0.6b
  penstock health && echo up

environment:
  {TARGET_VARIABLE}  where the server is (default: {DEFAULT_TARGET})
  {TOKEN_VARIABLE}   the token to send; other users can read one given by --token
  {MODEL_VARIABLE}   the model to ask (default: {DEFAULT_MODEL})
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command with ``argv`` (default: the process's arguments); returns its exit code."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its log is not for who reads our errors
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal may not know all that models write
    args = _parser().parse_args(argv)
    try:
        code: int = args.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout once more as it ends: let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except penstock.PenstockError as error:
        _report(error)
        return FAILED
    except (ValueError, OSError) as error:  # a bad target, a missing file
        _complain(str(error))
        return USAGE
    return code


def _generate(args: argparse.Namespace) -> int:
    prompt = _input(args.prompt)
    options = {name: getattr(args, name) for name in _SAMPLING_NAMES}
    with _client(args) as client:
        if args.json or args.no_stream:
            response = client.generate(prompt, model=args.model, **options)
            print(as_json(response) if args.json else said(response.message))
        else:
            with client.stream(prompt, model=args.model, **options) as stream:
                (_print_events if args.events else _print_text)(stream)
            response = stream.response or v1.GenerateResponse()
    if args.verbose:
        _complain(summary(response))
    return 0


def _print_events(stream: penstock.Stream) -> None:
    for event in stream:
        print(as_json(event, indent=None), flush=True)


def _print_text(stream: penstock.Stream) -> None:
    last = ""
    try:
        for event in stream:
            if piece := event.part_delta.text or event.part_delta.refusal:
                print(piece, end="", flush=True)
                last = piece
    finally:
        if last and not last.endswith("\n"):  # also ahead of an error's line
            print()


def _models(args: argparse.Namespace) -> int:
    with _client(args) as client:
        answer = client.list_models(args.provider)
    if args.json:
        print(as_json(answer))
        return 0
    if answer.models:
        print(table([MODEL_COLUMNS, *map(model_row, answer.models)]))
    for failure in answer.failures:
        _complain(failure_line(failure))
    return 0


def _model(args: argparse.Namespace) -> int:
    with _client(args) as client:
        model = client.get_model(args.model)
    _print_model(model, args)
    return 0


def _load(args: argparse.Namespace) -> int:
    with _client(args) as client:
        model = None
        for step in client.load_model(args.model):
            print(f"{step.progress:4.0%} {step.stage}", file=sys.stderr, flush=True)
            model = step.model
        model = model or client.get_model(args.model)  # a model that is there already says nothing
    _print_model(model, args)
    return 0


def _pull(args: argparse.Namespace) -> int:
    with _client(args) as client:
        model, last = None, ""
        for step in client.pull_model(args.model):
            share = step.completed_bytes / step.total_bytes if step.total_bytes else 0.0
            line = f"{share:4.0%} {step.stage}" if step.total_bytes else f"     {step.stage}"
            if line != last and step.stage:  # providers tell it many times a second
                print(line, file=sys.stderr, flush=True)
            last = line
            model = step.model if step.HasField("model") else model
        model = model or client.get_model(args.model)
    _print_model(model, args)
    return 0


def _unload(args: argparse.Namespace) -> int:
    with _client(args) as client:
        model = client.unload_model(args.model)
    _print_model(model, args)
    return 0


def _embed(args: argparse.Namespace) -> int:
    inputs = args.inputs if args.inputs not in ([], ["-"]) else _input(None).splitlines()
    with _client(args) as client:
        answer = client.embed(inputs, model=args.model, dimensions=args.dimensions)
    if args.json:
        print(as_json(answer))
    else:
        for embedding in answer.embeddings:
            print(vector(embedding))
    return 0


def _health(args: argparse.Namespace) -> int:
    with _client(args) as client:
        status = client.health(args.service)
    print(f'{{"status": "{status}"}}' if args.json else status)
    return 0 if status == "SERVING" else FAILED


def _version(args: argparse.Namespace) -> int:
    import google.protobuf
    import grpc

    print(f"penstock {penstock.__version__}")
    print(f"grpcio {grpc.__version__}, protobuf {google.protobuf.__version__}")
    print(f"Python {sys.version.split()[0]}")
    return 0


class _Option(NamedTuple):
    flags: tuple[str, ...]
    settings: dict[str, Any]


def _option(*flags: str, **settings: Any) -> _Option:
    return _Option(flags, settings)


_JSON = _option("--json", action="store_true", help="print the answer as JSON")

_SAMPLING = (
    _option("--system", metavar="TEXT", help="instructions, ahead of the prompt"),
    _option("--temperature", type=float, metavar="T", help="0 (likeliest) to 2 (most varied)"),
    _option(
        "--max-tokens",
        type=int,
        metavar="N",
        dest="max_output_tokens",
        help="the most tokens to write",
    ),
    _option("--seed", type=int, metavar="N", help="the same seed, the same answer"),
    _option(
        "--stop", action="append", metavar="TEXT", help="end the answer before TEXT; repeatable"
    ),
)
_SAMPLING_NAMES = ("system", "temperature", "max_output_tokens", "seed", "stop")

_CONNECTION = (
    _option("--target", metavar="TARGET", help="host:port, grpcs://host:port or unix:/path"),
    _option("--token", metavar="TOKEN", help="sent with every call"),
    _option("--tls", action="store_true", help="encrypt the connection"),
    _option("--ca", metavar="FILE", help="trust this CA; turns TLS on"),
    _option("--cert", metavar="FILE", help="this client's certificate; turns TLS on"),
    _option("--key", metavar="FILE", help="the certificate's private key"),
    _option("--insecure", action="store_true", help="send the token over a network without TLS"),
    _option("--timeout", type=float, metavar="SECONDS", help="for each call (default: none)"),
)


def _model_option() -> _Option:
    default = os.environ.get(MODEL_VARIABLE) or DEFAULT_MODEL
    return _option("--model", "-m", default=default, help="provider/model (default: %(default)s)")


class _Command(NamedTuple):
    run: Callable[[argparse.Namespace], int]
    help: str
    options: Sequence[_Option]


def _commands() -> dict[str, _Command]:
    name = _option("model", metavar="MODEL", help="provider/model")
    return {
        "generate": _Command(
            _generate,
            "ask a model; the answer is printed as it is written",
            (
                _option("prompt", nargs="?", help='the prompt; "-" or none reads it from stdin'),
                _model_option(),
                *_SAMPLING,
                _option("--json", action="store_true", help="print the whole response as JSON"),
                _option("--events", action="store_true", help="print each event as a line of JSON"),
                _option("--no-stream", action="store_true", help="print only the whole answer"),
                _option(
                    "--verbose", "-v", action="store_true", help="print tokens and times to stderr"
                ),
            ),
        ),
        "models": _Command(
            _models,
            "list the models",
            (_option("provider", nargs="?", default="", help="only this provider's"), _JSON),
        ),
        "model": _Command(_model, "describe a model", (name, _JSON)),
        "load": _Command(_load, "bring a local model into memory", (name, _JSON)),
        "pull": _Command(_pull, "have a provider fetch a model", (name, _JSON)),
        "unload": _Command(_unload, "free a local model's memory", (name, _JSON)),
        "embed": _Command(
            _embed,
            "turn texts into vectors, one line each",
            (
                _option("inputs", nargs="*", metavar="TEXT", help="none: the lines of stdin"),
                _model_option(),
                _option("--dimensions", type=int, metavar="N", help="the vectors' length"),
                _JSON,
            ),
        ),
        "health": _Command(
            _health,
            "ask whether the server takes calls; exits with 0 only where it does",
            (_option("service", nargs="?", default="", help="such as openai"), _JSON),
        ),
        "version": _Command(_version, "print versions", ()),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="penstock",
        description="One endpoint for every language model.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"penstock {penstock.__version__}")
    _add_connection(parser)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, command in _commands().items():
        sub = commands.add_parser(name, help=command.help, description=command.help.capitalize())
        for option in command.options:
            sub.add_argument(*option.flags, **option.settings)
        # Again after the command, where a default would overwrite what was said before it.
        _add_connection(sub, default=argparse.SUPPRESS)
        sub.set_defaults(run=command.run)
    return parser


def _add_connection(parser: argparse.ArgumentParser, **settings: Any) -> None:
    group = parser.add_argument_group("connection")
    for option in _CONNECTION:
        group.add_argument(*option.flags, **option.settings, **settings)


def _client(args: argparse.Namespace) -> penstock.Client:
    tls: bool | penstock.TLSOptions | None = True if args.tls else None
    if args.ca or args.cert or args.key:
        tls = penstock.TLSOptions(ca=args.ca, certificate=args.cert, key=args.key)
    if args.insecure:
        if tls:
            raise ValueError("--insecure and TLS exclude each other")
        tls = False
    return penstock.Client(args.target, token=args.token, tls=tls, timeout=args.timeout)


def _input(argument: str | None) -> str:
    if argument not in (None, "-"):
        return argument or ""
    if argument is None and sys.stdin.isatty():
        raise ValueError('nothing to send: give it as an argument, or "-" to type it')
    return sys.stdin.buffer.read().decode()


def _print_model(model: v1.Model, args: argparse.Namespace) -> None:
    print(as_json(model) if args.json else table(model_facts(model)))


def _report(error: penstock.PenstockError) -> None:
    _complain(str(error).removesuffix(f"; {error.hint}"))
    for violation in error.field_violations:
        print(f"  {violation.field}: {violation.description}", file=sys.stderr)
    if error.hint:
        print(f"  {error.hint}", file=sys.stderr)
    if error.retry_delay is not None:
        print(f"  try again in {error.retry_delay:g} s", file=sys.stderr)


def _complain(text: str) -> None:
    print("penstock: " + text.replace("\n", "\n  "), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
