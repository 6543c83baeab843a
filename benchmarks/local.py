"""Local models, ours and others': how many tokens a second, how soon the first, at what cost.

The same model on the same machine, through a real gateway and sidecar, and through what else one
might use (``local_contenders.py`` has the list). Callers ask, hear the answer as a stream, and ask
again at once. Contenders take turns, each alone on the machine, and the figures are medians over
the rounds; only ratios mean something::

    python benchmarks/local.py --engine hf --rounds 3 --seconds 10
    python benchmarks/local.py --interference     # a long prompt among short ones
    python benchmarks/local.py --prefix           # the second turn of a long conversation
    python benchmarks/local.py --idle             # CPU while nothing is asked

The model has 11 million parameters, which nobody trained, and is made when it is first needed;
``--model DIR`` takes another. Answers are greedy and have exactly the tokens that were asked for,
which is checked. Writes a table, a picture and the raw figures. Needs Linux.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import local_model, local_modes, local_picture
from benchmarks.local_contenders import CONTENDERS, Contender, Running, Setup
from benchmarks.local_figures import (
    Figures,
    Wrong,
    as_json,
    median,
    of_round,
    same_answers,
)
from benchmarks.local_process import (
    Failed,
    cpu,
    forget_peak,
    machine_cpu,
    memory,
    require_linux,
    tree,
)

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build/benchmark"

_QUIET = 0.1
"""Cores that others may use without a word about it."""

Found = dict[tuple[str, int], list[Figures]]
"""Contender's key and callers → the figures of each round."""


class Bench:
    """Measures contenders in rounds, and keeps what it finds."""

    def __init__(self, setup: Setup, args: argparse.Namespace) -> None:
        self._setup = setup
        self._args = args
        self._sums: dict[str, dict[int, int]] = defaultdict(dict)
        self.found: Found = defaultdict(list)
        self.failed: dict[str, str] = {}

    def run(self, contenders: Sequence[Contender]) -> None:
        """All rounds; each begins with another contender, so that none always follows the same."""
        for number in range(self._args.rounds):
            shift = number % len(contenders)
            for contender in (*contenders[shift:], *contenders[:shift]):
                if contender.key not in self.failed:
                    self._turn(contender, number)

    def _turn(self, contender: Contender, number: int) -> None:
        began = time.monotonic()
        try:
            running = contender.start(self._setup)
            took = time.monotonic() - began
            try:
                print(
                    f"round {number + 1} of {self._args.rounds}: {contender.label}"
                    f" (ready after {took:.1f} s)",
                    flush=True,
                )
                _warm_up(running)
                for callers in self._args.callers:
                    self._measure(contender, running, number, callers)
            finally:
                running.stop()
        except (Failed, Wrong) as error:
            # The others' figures are worth having all the same.
            self.failed[contender.key] = str(error)
            print(f"  {contender.label} FAILED: {error}", flush=True)

    def _measure(self, contender: Contender, running: Running, number: int, callers: int) -> None:
        # Every contender gets the same questions in the same round.
        task = {
            "callers": callers,
            "seconds": self._args.seconds,
            "warm_up": self._args.warm_up,
            "first": number * 10**7 + callers * 10**5,
            "patience": self._args.patience,
        }
        answers, figures = self._ask(running, task)
        self._sums[contender.key] |= {a["question"]: a["sum"] for a in answers if a["told"]}
        self.found[contender.key, callers].append(figures)
        parts = ", ".join(f"{part} {cores:.2f}" for part, cores in figures.cores.items())
        print(
            f"  {callers:3} callers  {figures.tokens_per_second:8,.0f} tokens/s"
            f"   first {figures.first_p50:8,.1f} p99 {figures.first_p99:8,.1f}"
            f"   gap {figures.gap_p50:6.1f} p99 {figures.gap_p99:6.1f} ms"
            f"   cores: {parts}   {figures.own_peak:,.0f} MiB"
            + (f"   ({figures.late:.0f} unfinished)" if figures.late else "")
            + (f"   OTHERS USE {figures.others:.2f} CORES" if figures.others > _QUIET else ""),
            flush=True,
        )

    def _ask(
        self, running: Running, task: Mapping[str, Any]
    ) -> tuple[Sequence[Mapping[str, Any]], Figures]:
        parts = dict(running.parts)
        if running.load.pid not in parts.get("all", list)():
            parts["load"] = lambda: tree(running.load.pid)
        running.load.tell(task)
        _expect(running, "open")
        pids = {part: list(found()) for part, found in parts.items()}
        for each in pids.values():
            forget_peak(each)
        before, began = {part: cpu(each) for part, each in pids.items()}, time.perf_counter()
        everybody = machine_cpu() - cpu([os.getpid()])
        _expect(running, "closed")
        took = time.perf_counter() - began
        cores = {part: (cpu(each) - before[part]) / took for part, each in pids.items()}
        everybody = machine_cpu() - cpu([os.getpid()]) - everybody
        needs = {part: memory(each) for part, each in pids.items()}
        answers = running.load.hear()
        figures = of_round(
            answers,
            task["seconds"],
            self._args.model is None,
            cores=cores,
            others=max(0.0, everybody / took - sum(cores.values())),
            peak={part: need.peak for part, need in needs.items()},
            proportional={part: need.proportional for part, need in needs.items()},
        )
        return answers, figures

    def same(self, key: str, reference: str) -> float | None:
        """The share of a contender's answers that are the reference's, word by word."""
        return same_answers(self._sums[key], self._sums[reference])


def _warm_up(running: Running) -> None:
    """A few answers that nobody looks at: code is compiled, memory is taken."""
    running.load.tell({"callers": 2, "seconds": 0.5, "first": 10**9})
    for word in ("open", "closed"):
        _expect(running, word)
    running.load.hear()


def _expect(running: Running, word: str) -> None:
    said = running.load.hear()
    if said != word:
        raise running.load.failed(f"said {said!r} instead of {word!r}")


def compare(setup: Setup, args: argparse.Namespace) -> int:
    """All contenders; 1 where one of them failed."""
    chosen = [c for c in CONTENDERS if setup.engine in c.engines]
    if args.only:
        unknown = set(args.only) - {c.key for c in chosen}
        if unknown:
            known = ", ".join(c.key for c in chosen)
            sys.exit(f"--only {','.join(sorted(unknown))}: not with this engine; {known}")
        chosen = [c for c in chosen if c.key in args.only]
    skipped = {c.label: missing for c in chosen if (missing := c.missing(setup))}
    for label, missing in skipped.items():
        print(f"skipped: {label}: {missing}", flush=True)
    chosen = [c for c in chosen if c.label not in skipped]
    if not chosen:
        sys.exit("nobody is left to be measured")
    bench = Bench(setup, args)
    bench.run(chosen)
    medians = {
        (c, callers): median(bench.found[c.key, callers])
        for c, callers in itertools.product(chosen, args.callers)
        if bench.found[c.key, callers]
    }
    if not medians:
        sys.exit("nobody could be measured")
    table = local_picture.table({(c.label, n): figures for (c, n), figures in medians.items()})
    about = _about(setup, args)
    same = {c.label: bench.same(c.key, chosen[0].key) for c in chosen[1:]}
    notes = [f"{label}: skipped, {missing}" for label, missing in skipped.items()]
    busy = max(figures.others for figures in medians.values())
    if busy > _QUIET:
        notes.append(f"the machine was not ours alone: others used up to {busy:.2f} cores")
    notes += [f"{share:.1%} of {label}'s answers are {chosen[0].label}'s, word by word"
              for label, share in same.items() if share is not None]  # fmt: skip
    text = local_picture.page(about, table, notes)
    print(f"\n{text}")
    series = {
        c.label: {n: medians[c, n] for n in args.callers if (c, n) in medians} for c in chosen
    }
    name = f"local-engines-{setup.engine}"
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"{name}.md").write_text(text)
    (args.out / f"{name}.svg").write_text(local_picture.draw(series, about["model"]))
    raw = {
        "about": about,
        "skipped": skipped,
        "failed": bench.failed,
        "same answers": same,
        "medians": [
            {"contender": c.key, "callers": n, **as_json(f)} for (c, n), f in medians.items()
        ],
        "rounds": [
            {"contender": key, "callers": n, "round": number, **as_json(figures)}
            for (key, n), rounds in bench.found.items()
            for number, figures in enumerate(rounds)
        ],
    }
    (args.out / f"{name}.json").write_text(json.dumps(raw, indent=1) + "\n")
    print(f"written: {args.out / name}.md, .svg and .json")
    return 1 if bench.failed else 0


def _model_name(setup: Setup, args: argparse.Namespace) -> str:
    return (
        Path(args.model).resolve().name if args.model else "an untrained Llama of 11 M parameters"
    )


def _about(setup: Setup, args: argparse.Namespace) -> dict[str, str]:
    """What the figures are of."""
    libraries = ("torch", "transformers") if setup.engine == "hf" else ("mlx", "mlx-lm")
    cores = len(os.sched_getaffinity(0))
    return {
        "model": f"{_model_name(setup, args)}, {setup.dtype}",
        "load": f"{args.rounds} rounds of {args.seconds:g} s; prompts of 16–96 tokens, 32–96 new",
        "with": ", ".join(f"{name} {version(name)}" for name in libraries)
        + f"; Python {platform.python_version()}; {cores} cores, {platform.machine()}",
        "settings": " ".join(f"{key}={value}" for key, value in setup.settings.items())
        or "default",
    }


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _words(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def _setting(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError("write KEY=VALUE")
    return key, value


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add("--engine", choices=("hf", "mlx"), default="hf")
    add("--model", type=Path, metavar="DIR", help="default: the random model of 11 M parameters")
    add("--dtype", choices=("float32", "bfloat16"), default="float32")
    add("--callers", type=_numbers, default=[1, 4, 16, 64], metavar="N,…", help="1,4,16,64")
    add("--rounds", type=int, default=3)
    add("--seconds", type=float, default=10.0, help="that count, of each round (10)")
    add("--warm-up", type=float, default=2.0, metavar="SECONDS", help="before them (2)")
    add("--patience", type=float, default=300.0, metavar="SECONDS",
        help="for answers asked for in time (300)")  # fmt: skip
    add("--only", type=_words, default=[], metavar="KEY,…",
        help=", ".join(contender.key for contender in CONTENDERS))  # fmt: skip
    add("--set", type=_setting, action="append", default=[], metavar="KEY=VALUE",
        help="more keys of our providers.local, such as threads=2")  # fmt: skip
    add("--peers", type=Path, default=ROOT / "build/peers", metavar="DIR",
        help="where make test-peers has built llama-server")  # fmt: skip
    add("--out", type=Path, default=ROOT / "docs/images", metavar="DIR")
    modes = made.add_mutually_exclusive_group()
    for name, mode in local_modes.MODES.items():
        modes.add_argument(f"--{name}", action="store_const", const=mode, dest="mode",
                           help=(mode.__doc__ or "").partition("\n")[0])  # fmt: skip
    add(
        "--every",
        type=float,
        default=3.0,
        metavar="SECONDS",
        help="--interference: from one long prompt to the next (3)",
    )
    return made


def main() -> int:
    """Make the setup, and measure."""
    args = parser().parse_args()
    require_linux()
    BUILD.mkdir(parents=True, exist_ok=True)
    model = (
        local_model.endless(args.model, BUILD)
        if args.model
        else local_model.made(BUILD, args.dtype)
    )
    stored = local_model.stored_dtype(model)
    if args.engine == "mlx" and stored != args.dtype:
        print(f"mlx-lm computes in the checkpoint's {stored}, Penstock in {args.dtype}")
    setup = Setup(
        model=model,
        dtype=args.dtype,
        engine=args.engine,
        callers=max(args.callers),
        build=BUILD,
        peers=args.peers.resolve(),
        settings=dict(args.set),
    )
    try:
        return args.mode(setup, args) if args.mode else compare(setup, args)
    except Failed as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
