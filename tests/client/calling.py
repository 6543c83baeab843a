"""Calling tools in both flavours: one face for `execute_tools` and `aexecute_tools`."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import pytest
from penstock.tools import aexecute_tools, execute_tools, tool
from pydantic import BaseModel

Execute: TypeAlias = Callable[..., Awaitable[list[dict[str, Any]]]]


@pytest.fixture
def execute(flavour: str) -> Execute:
    """``await execute(calls, tools, …)``. The thread of the sync flavour runs no event loop."""
    if flavour == "aio":
        return aexecute_tools

    async def in_thread(*args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        return await asyncio.to_thread(execute_tools, *args, **kwargs)

    return in_thread


def call(name: str, call_id: str | None = None, **arguments: Any) -> dict[str, Any]:
    return {"name": name, "arguments": arguments, "call_id": call_id}


class Unit(enum.Enum):
    CELSIUS = "celsius"
    KELVIN = "kelvin"


class Place(BaseModel):
    """Somewhere."""

    city: str
    country: str | None = None


@dataclasses.dataclass
class Window:
    days: int = 1


@tool
def add(a: int, b: int = 0) -> int:
    return a + b


@tool
async def add_later(a: int, b: int = 0) -> int:
    await asyncio.sleep(0)
    return a + b
