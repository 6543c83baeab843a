"""The configuration, taken anew while a gateway runs: whole or not at all."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import penstock
import pytest
from penstock_server.identity import new_token
from penstock_server.reload import Reloader

from tests.support.hosted import ENVIRONMENT, Hosted
from tests.support.processes import TINY, children, eventually, gateway, until

TOKEN, HASH = new_token()
OTHER, OTHER_HASH = new_token()
LONG = "Tell me a long story."


class Configured:
    """A gateway, and the file that configures it."""

    def __init__(self, file: Path, hosted: Hosted) -> None:
        self.file = file
        root = hosted.upstream.url.removesuffix("/v1")
        self.local = f'[providers.local]\nkind = "sidecar"\nmodels.tiny = "{TINY}"\n'
        self.ollama = f'[providers.ollama]\nkind = "ollama"\nbase_url = "{root}"\n'
        self.write(self.local)
        self.process = gateway("--config", str(file), env=ENVIRONMENT)

    def write(self, *parts: str) -> None:
        new = self.file.with_suffix(".new")
        new.write_text("\n".join(parts), encoding="utf-8")
        new.replace(self.file)

    def change(self, *parts: str, says: str = "configuration taken anew", hup: bool = True) -> None:
        """Write it, and wait until it is taken (or refused)."""
        seen = len(self.process.log)
        self.write(*parts)
        if hup:
            self.process.send(signal.SIGHUP)
        eventually(lambda: any(says in line["message"] for line in self.process.log[seen:]))

    def client(self, **options: Any) -> penstock.Client:
        return penstock.Client(self.process.address, timeout=60, **options)


@pytest.fixture
def configured(tmp_path: Path, hosted: Hosted) -> Iterator[Configured]:
    made = Configured(tmp_path / "penstock.toml", hosted)
    with made.process as process:
        process.ready()
        yield made


@pytest.mark.parametrize("hup", [True, False])
def test_providers_come_and_go_and_running_calls_go_on(
    configured: Configured, hup: bool, report: Callable[[str], None]
) -> None:
    (sidecar,) = children(configured.process.pid)
    with configured.client() as client:
        with client.stream(LONG, model="local/tiny", seed=1, max_output_tokens=300) as stream:
            pieces = stream.text()
            said = [next(pieces)]
            # One more; the other one stays the same process.
            configured.change(configured.local, configured.ollama, hup=hup)
            assert children(configured.process.pid) == [sidecar]
            assert client.generate("Count.", model="ollama/some").message
            assert client.health("provider/ollama") == "SERVING"
            # Now the one that answers goes, and what runs still ends well.
            configured.change(configured.ollama, hup=hup)
            with pytest.raises(penstock.ModelNotFoundError):
                client.generate("Hi", model="local/tiny")
            said.extend(pieces)
            assert stream.response is not None
        took = eventually(lambda: children(configured.process.pid) == [])
        report(f"{len(said)} pieces whole; its sidecar ended {took * 1e3:.0f} ms later")
        assert client.health("provider/local") == "SERVICE_UNKNOWN"
        assert client.health() == "SERVING"
        configured.change(configured.local, configured.ollama, hup=hup)
        assert client.generate("Hi", model="local/tiny", temperature=0).message
        assert children(configured.process.pid) != [sidecar]


BROKEN: Mapping[str, str] = {
    "[providers.local\n": "cannot be read",
    '[providers.local]\nkind = "sidecar"\n': "set either models",
    '[aliases]\nfast = "nobody/none"\n': "aliases.fast",
    '[routes.fast]\ntargets = ["nobody/none"]\n': "routes.fast",
    '[callers.me]\ntokens = ["secret"]\n': "callers.me.tokens.0.hash",
    '[callers.me]\npolicy = "none"\n': "there is no policy 'none'",
    '[policies.all.limits]\nrequests = "many"\n': "is not a rate",
    '[redis]\nurl = "nonsense"\n': "redis",
}
"""What is written into the file → what is said of it."""


def test_what_is_broken_is_refused_and_what_was_stays(configured: Configured) -> None:
    with configured.client() as client:
        for broken, said in BROKEN.items():
            seen = len(configured.process.log)
            configured.change(broken, says="configuration refused")
            told = [line for line in configured.process.log[seen:] if "refused" in line["message"]]
            assert said in told[0]["why"]
            assert client.generate("Hi", model="local/tiny", max_output_tokens=1).message
        configured.change(configured.local)
        assert client.generate("Hi", model="local/tiny", max_output_tokens=1).message


def test_tokens_policies_and_limits_change(configured: Configured) -> None:
    def callers(*hashes: str, models: str = "local/*", requests: str = "1000/m") -> str:
        return (
            f"[callers.me]\ntokens = {json.dumps(hashes)}\npolicy = 'mine'\n"
            f"[policies.mine]\nmodels = ['{models}']\nlimits.requests = '{requests}'\n"
        )

    def ask(token: str) -> str:
        with configured.client(token=token) as client:
            try:
                client.generate("Hi", model="local/tiny", max_output_tokens=1)
            except penstock.PenstockError as error:
                return error.reason
            return "OK"

    (sidecar,) = children(configured.process.pid)
    assert [ask(""), ask(TOKEN)] == ["OK", "OK"]
    configured.change(configured.local, callers(HASH))
    assert [ask(""), ask(TOKEN), ask(OTHER)] == [
        "CALLER_UNAUTHENTICATED",
        "OK",
        "CALLER_UNAUTHENTICATED",
    ]
    configured.change(configured.local, callers(HASH, OTHER_HASH))  # one replaces the other
    assert [ask(TOKEN), ask(OTHER)] == ["OK", "OK"]
    configured.change(configured.local, callers(OTHER_HASH))
    assert [ask(TOKEN), ask(OTHER)] == ["CALLER_UNAUTHENTICATED", "OK"]
    configured.change(configured.local, callers(OTHER_HASH, models="nothing"))
    assert ask(OTHER) == "CALLER_FORBIDDEN"
    configured.change(configured.local, callers(OTHER_HASH, requests="2/h"))
    assert [ask(OTHER) for _ in range(3)] == ["OK", "OK", "LIMIT_EXCEEDED"]
    # What has been counted stays while the limit does.
    configured.change(configured.local, configured.ollama, callers(OTHER_HASH, requests="2/h"))
    assert ask(OTHER) == "LIMIT_EXCEEDED"
    assert children(configured.process.pid) == [sidecar], "nothing of this concerns the model"


def test_a_hundred_changes_under_load(
    configured: Configured, report: Callable[[str], None]
) -> None:
    """Nobody notices, and nothing is left over."""

    def descriptors() -> int:
        return len(list(Path(f"/proc/{configured.process.pid}/fd").iterdir()))

    over, failed, done = threading.Event(), list[BaseException](), 0

    def load() -> None:
        nonlocal done
        with configured.client() as client:
            while not over.is_set():
                try:
                    client.generate("Hi", model="local/tiny", max_output_tokens=2)
                    done += 1
                except BaseException as error:
                    failed.append(error)
                    return

    threads = [threading.Thread(target=load) for _ in range(4)]
    configured.change(configured.local, configured.ollama)
    before = descriptors()
    for thread in threads:
        thread.start()
    number = 0
    while number < 100 or (done < 50 and not failed):
        number += 1
        more = [configured.ollama.replace("ollama]", f"o{number}]")] if number % 2 else []
        configured.change(configured.local, *more, f"[aliases]\nfast{number} = 'local/tiny'\n")
    over.set()
    for thread in threads:
        thread.join()
    report(
        f"{number} changes, {done} calls meanwhile, {len(failed)} failed; "
        f"{before} → {descriptors()} descriptors"
    )
    assert not failed
    configured.change(configured.local, configured.ollama)
    eventually(lambda: descriptors() <= before + 2)


def test_what_needs_a_restart_is_said(configured: Configured) -> None:
    configured.change("[keepalive]\ninterval = 50\n", configured.local)
    told = configured.process.wait_for(lambda line: "need a restart" in line["message"])
    assert told["keys"] == "keepalive"


async def test_a_fault_of_ours_does_not_end_the_watching(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tried = 0

    async def reload() -> None:
        nonlocal tried
        tried += 1
        if tried == 1:
            raise ZeroDivisionError("a bug")

    reloader = Reloader(reload, [tmp_path / "penstock.toml"])
    watching = asyncio.create_task(reloader.run())
    for expected in (1, 2):
        reloader.ask()
        await until(lambda expected=expected: tried == expected)  # type: ignore[misc] # a default
    assert not watching.done()
    assert "in taking the configuration anew" in caplog.text
    watching.cancel()
