"""experiments/machine.py: what the figures were measured on, without names and places."""

from __future__ import annotations

import os
import platform

from tmpfsd.machine import physical_memory
from tmpfsd.mounts.mountinfo import type_above
from tmpfsd.swapplaces import default_swap


def describe() -> dict[str, str | int]:
    """The machine, for the results."""
    return {"cores": os.cpu_count() or 0, "ram_mib": physical_memory() >> 20, "kernel": platform.release(),
            "python": platform.python_version(), "cpu": processor(), "swap": swap_filesystem()}


def processor() -> str:
    """The model of the processor, where /proc tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return " ".join(line.partition(":")[2].split())
    except OSError:
        pass
    return platform.machine()


def swap_filesystem() -> str:
    """The type of the file system that the swap file is in."""
    path = default_swap()
    if path is None:
        return "none"
    return type_above(path)


def sentence(machine: dict[str, str | int]) -> str:
    """The machine, for the report."""
    return (f"{machine['cores']} cores ({machine['cpu']}), {machine['ram_mib']:,} MiB of RAM, "
            f"Linux {machine['kernel']}, Python {machine['python']}, swap file on {machine['swap']}")
