"""experiments/machine.py: the machine that the figures were measured on, without names and places."""

from __future__ import annotations

import os
import platform
from typing import Any

from tmpfsd import compiled
from tmpfsd.machine import physical_memory
from tmpfsd.mounts.mountinfo import type_above
from tmpfsd.swapplaces import default_swap


def describe() -> dict[str, Any]:
    """The machine, for the results."""
    return {"cores": os.cpu_count() or 0, "ram_mib": physical_memory() >> 20, "kernel": platform.release(),
            "python": platform.python_version(), "compiled": compiled.active(), "load": round(os.getloadavg()[0], 1),
            "cpu": processor(), "swap": swap_filesystem()}


def processor() -> str:
    """The model of the processor, if /proc tells it."""
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


def sentence(machine: dict[str, Any]) -> str:
    """The machine, for the report."""
    return (f"{machine['cores']} cores ({machine['cpu']}), {machine['ram_mib']:,} MiB of RAM, "
            f"Linux {machine['kernel']}, Python {machine['python']}{how(machine)}, swap file on {machine['swap']}")


def how(machine: dict[str, Any]) -> str:
    """Whether it was compiled, and how busy the machine was at the end, if that was noted."""
    if "compiled" not in machine:
        return ""
    return f" ({'compiled' if machine['compiled'] else 'interpreted'}; load at the end {machine['load']})"
