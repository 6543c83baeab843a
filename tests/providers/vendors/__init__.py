"""The vendors, a file of cases each."""

from __future__ import annotations

import importlib
import pkgutil

from tests.providers.cases import Vendor


def all_vendors() -> list[Vendor]:
    """Every ``VENDOR`` and all ``VENDORS`` of the files beside this one."""
    found: list[Vendor] = []
    for info in sorted(pkgutil.iter_modules(__path__), key=lambda info: info.name):
        module = importlib.import_module(f"{__name__}.{info.name}")
        found += getattr(module, "VENDORS", ()) or (module.VENDOR,)
    return found
