"""awake.py: keeps idle cores awake while a client waits for each answer.

The core of a client that waits is idle.  In a virtual machine an idle core halts, and to wake it takes an exit to the
hypervisor: some 20 of the 35 us that a request took here.  The kernel has an interface for who cannot wait that long
(Documentation/power/pm_qos_interface.rst): an open /dev/cpu_dma_latency keeps a bound on the time that cores may take
to wake, and 0 makes idle cores poll.  The bound ends with the descriptor, so a daemon that is killed leaves none.

Picture     FREE --hold(): the spin pays--> HELD --release(): it does not, or no traffic--> FREE

Limits      The bound is for all cores of the machine.  So `auto` keeps them awake only where the kernel itself would
            poll before it halts (the cpuidle driver is haltpoll: a guest of KVM), and only if there are few.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)

DEVICE = "/dev/cpu_dma_latency"
DRIVER = Path("/sys/devices/system/cpu/cpuidle/current_driver")
HALTS = "haltpoll"
MOST_CORES = 8
NONE_LESS = (0).to_bytes(4, "little")                   # microseconds, a native s32
NO_BOUND = (2_000_000_000).to_bytes(4, "little")        # PM_QOS_CPU_LATENCY_DEFAULT_VALUE


class Awake:
    """A bound on the latency of the machine's cores; without a device nothing happens."""

    __slots__ = ("held", "_fd")

    def __init__(self, fd: int = -1) -> None:
        self.held = False
        self._fd = fd

    def hold(self) -> None:
        """Keep idle cores awake from now on.  O(1) if they are, else a system call."""
        if not self.held and self._fd >= 0:
            self.held = self._write(NONE_LESS)

    def release(self) -> None:
        """Let them sleep."""
        if self.held:
            self._write(NO_BOUND)
            self.held = False

    def _write(self, bound: bytes) -> bool:
        try:
            return os.write(self._fd, bound) == len(bound)
        except OSError as error:
            log.warning("%s: %s: cores are not kept awake any more", DEVICE, error.strerror)
            self.close()
            return False

    def close(self) -> None:
        """Close the device: the bound is gone."""
        if self._fd >= 0:
            os.close(self._fd)
        self.held, self._fd = False, -1


def wanted(driver: Path = DRIVER, cores: int | None = None) -> bool:
    """Whether `auto` keeps cores awake: halting is costly here, and there are few of them."""
    try:
        halts = driver.read_text(encoding="ascii").strip() == HALTS
    except OSError:
        return False
    return halts and (cores or os.cpu_count() or MOST_CORES) <= MOST_CORES


def open_awake(choice: str, device: str = DEVICE) -> Awake:
    """Awake for awake=auto|on|off; auto does without a device that cannot be opened.  => OSError, if `on`."""
    if choice == "off" or choice == "auto" and not wanted():
        return Awake()
    try:
        fd = os.open(device, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        if choice == "on":
            raise
        return Awake()
    awake = Awake(fd)
    awake._write(NO_BOUND)
    return awake
