"""Sizes, what the kernel says there is, what a model's files will take, and who has to go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from penstock import v1
from penstock_server.errors import Failure
from penstock_server.local import cgroup, survey
from penstock_server.local.budget import Budget
from penstock_server.local.memory import Memory, format_size, memory, parse_size
from penstock_server.local.recipe import Look
from safetensors.torch import save_file

GIB = 2**30


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8GiB", 8 * GIB),
        ("500MB", 500_000_000),
        ("1.5g", 1_500_000_000),
        ("2 Ki", 2_048),
        ("123", 123),
        ("123b", 123),
        ("0.1KB", 100),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1", "8XB", "0", "0.1", "GiB", "1e9", "٣GB x"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        parse_size(text)


def test_sizes_for_people() -> None:
    assert [format_size(n) for n in (5, 2_048, 3 * 2**19, 3 * 2**29)] == [
        "5 bytes",
        "2.0 KiB",
        "1.5 MiB",
        "1.5 GiB",
    ]


MACHINE = {"proc/meminfo": "MemTotal: 16777216 kB\nMemFree: 1 kB\nMemAvailable: 8388608 kB\n"}
V2 = {**MACHINE, "proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "max\n"}


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (MACHINE, Memory(16 * GIB, 8 * GIB)),
        (V2, Memory(16 * GIB, 8 * GIB)),
        (
            # A limit further up counts, too; what files are cached in can be had.
            {
                **V2,
                "sys/fs/cgroup/a/memory.max": f"{4 * GIB}\n",
                "sys/fs/cgroup/a/memory.current": f"{3 * GIB}\n",
                "sys/fs/cgroup/a/memory.stat": f"anon 7\ninactive_file {GIB}\nactive_file {GIB}\n",
            },
            Memory(4 * GIB, 3 * GIB),
        ),
        (
            # The machine may have less to give than the limit allows.
            {
                **V2,
                "sys/fs/cgroup/a/b/memory.max": f"{12 * GIB}\n",
                "sys/fs/cgroup/a/b/memory.current": "0\n",
            },
            Memory(12 * GIB, 8 * GIB),
        ),
        (
            # A container sees its own part of the tree as the whole, and its path as outside.
            {
                **MACHINE,
                "proc/self/cgroup": "0::/../../docker/17\n",
                "sys/fs/cgroup/memory.max": f"{2 * GIB}\n",
                "sys/fs/cgroup/memory.current": f"{3 * GIB}\n",
            },
            Memory(2 * GIB, 0),
        ),
        (
            {
                **MACHINE,
                "proc/self/cgroup": "4:memory:/x\n0::/\n",
                "sys/fs/cgroup/memory/x/memory.limit_in_bytes": f"{GIB}\n",
                "sys/fs/cgroup/memory/x/memory.usage_in_bytes": f"{GIB // 2}\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            Memory(GIB, GIB // 2),
        ),
        ({}, Memory(0, 0)),
    ],
)
def test_memory_of_the_machine_or_the_container(
    tmp_path: Path, files: Mapping[str, str], found: Memory
) -> None:
    assert memory(made_up(tmp_path, files)) == found


def test_memory_of_this_machine() -> None:
    total, available = memory()
    assert 0 < available <= total


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, 8),
        ({"sys/fs/cgroup/a/b/cpu.max": "150000 100000\n"}, 2),
        ({"sys/fs/cgroup/a/cpu.max": "50000 100000\n"}, 1),
        ({"sys/fs/cgroup/a/b/cpu.max": "6400000 100000\n"}, 8),
        (
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/c\n0::/\n",
                "sys/fs/cgroup/cpu,cpuacct/c/cpu.cfs_quota_us": "400000\n",
                "sys/fs/cgroup/cpu,cpuacct/c/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            4,
        ),
    ],
)
def test_cores_are_counted_by_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: Mapping[str, str], cores: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(8), raising=False)
    root = made_up(tmp_path, {"proc/self/cgroup": "0::/a/b\n", **files})
    assert cgroup.cores(root) == cores


def made_up(root: Path, files: Mapping[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def test_weights_are_estimated_by_their_files(tmp_path: Path) -> None:
    assert survey.weights_bytes(tmp_path) == 0
    tensors = {"a": torch.zeros(10, 100, dtype=torch.bfloat16), "b": torch.zeros(50)}
    save_file({**tensors, "c": torch.zeros(7, dtype=torch.int64)}, tmp_path / "model.safetensors")
    save_file({"other": torch.zeros(1_000)}, tmp_path / "consolidated.safetensors")
    assert survey.weights_bytes(tmp_path, "float32") == 4_000 + 200 + 56
    assert survey.weights_bytes(tmp_path, "float16") == 2_000 + 100 + 56
    size = (tmp_path / "model.safetensors").stat().st_size
    assert survey.weights_bytes(tmp_path, "auto") == size
    (tmp_path / "config.json").write_text('{"quantization_config": {}}')
    assert survey.weights_bytes(tmp_path, "float32") == size
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    assert survey.weights_bytes(tmp_path, "float32") == 10


def test_the_hubs_cache_is_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    assert survey.find("org/name") is None
    repository = tmp_path / "hub/models--org--name"
    made_up(repository, {"refs/main": "abc", "snapshots/abc/config.json": "{}"})
    assert survey.find("org/name") == repository / "snapshots/abc"


class Model:
    """A tenant that a test makes idle or busy; it goes when it may, and tells the budget."""

    def __init__(self, budget: Budget, name: str, used_at: float = 0.0, idle: bool = True) -> None:
        self.name, self.used_at, self.idle = name, used_at, idle
        self._budget = budget

    async def make_way(self, patience: float) -> bool:
        give_up = time.monotonic() + patience
        while not self.idle:
            if time.monotonic() >= give_up:
                return False
            await asyncio.sleep(0.001)
        self._budget.release(self.name)
        return True


async def come(
    budget: Budget, name: str, weights: int, evict: bool = True, used_at: float = 0, **options: bool
) -> tuple[Model, int]:
    model = Model(budget, name, used_at, **options)
    return model, await budget.claim(model, Look(weights), evict)


async def test_caches_leave_room_for_models_that_are_to_come() -> None:
    budget = Budget(lambda: 1_000)
    for name in ("a", "b"):
        budget.expect(name, Look(200))
    _, a = await come(budget, "a", 200)
    _, b = await come(budget, "b", 200)
    assert a == 240  # 600 left, of which 0.8, for two
    assert b == 288  # 360 left, of which 0.8, for one
    assert sum(budget.claimed.values()) <= 1_000


async def test_what_the_operator_says_of_caches_holds() -> None:
    budget = Budget(lambda: 1_000, cache=300)
    assert (await come(budget, "a", 200))[1] == 300
    assert (await come(Budget(cache=300), "a", 200))[1] == 300
    assert (await come(Budget(), "a", 200))[1] == 0


async def test_the_least_recently_used_goes_first_and_no_more_than_needed() -> None:
    budget = Budget(lambda: 1_000, cache=1)
    await come(budget, "old", 300, used_at=1)
    await come(budget, "older", 300, used_at=0)
    await come(budget, "new", 300, used_at=2)
    await come(budget, "next", 300)
    assert set(budget.claimed) == {"old", "new", "next"}


async def test_what_can_never_fit_takes_nobody_along() -> None:
    budget = Budget(lambda: 1_000)
    await come(budget, "a", 500)
    with pytest.raises(Failure) as caught:
        await come(budget, "b", 950)
    assert caught.value.reason == v1.ERROR_REASON_SIDECAR_UNAVAILABLE
    assert caught.value.passing is False
    for words in ("too little memory for b", "950 bytes", "1000 bytes", "1.0 KiB", "a has"):
        assert words in caught.value.message
    assert set(budget.claimed) == {"a"}


async def test_who_is_in_use_is_waited_for() -> None:
    budget = Budget(lambda: 1_000, cache=1)
    busy, _ = await come(budget, "busy", 600, idle=False)
    coming = asyncio.create_task(come(budget, "next", 600))
    await asyncio.sleep(0.02)
    assert not coming.done()
    busy.idle = True
    await coming
    assert set(budget.claimed) == {"next"}


async def test_waiting_has_an_end_and_says_who_is_in_use() -> None:
    budget = Budget(lambda: 1_000, cache=1, patience=0.01)
    await come(budget, "busy", 600, idle=False)
    with pytest.raises(Failure, match=r"busy has 601 bytes, in use; try again later") as caught:
        await come(budget, "next", 600)
    assert caught.value.passing
    assert caught.value.retry_delay
    assert set(budget.claimed) == {"busy"}


async def test_at_the_start_nobody_is_sent_away() -> None:
    budget = Budget(lambda: 1_000, cache=1)
    await come(budget, "a", 600)
    with pytest.raises(Failure) as caught:
        await come(budget, "b", 600, evict=False)
    assert caught.value.passing
    assert set(budget.claimed) == {"a"}


async def test_a_model_that_turns_out_larger_sends_idle_ones_away(
    caplog: pytest.LogCaptureFixture,
) -> None:
    budget = Budget(lambda: 1_000, cache=1)
    await come(budget, "a", 500)
    await come(budget, "unknown", 0)
    budget.settle("unknown", 800)
    assert budget._shrinking is not None
    await budget._shrinking
    assert set(budget.claimed) == {"unknown"}
    budget.settle("unknown", 2_000)
    await budget._shrinking
    assert "more memory than they should" in caplog.text
