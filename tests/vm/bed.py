# SPDX-License-Identifier: MIT
"""What the tests of guests share: the guest that was saved, and the ways to start it again."""
import contextlib
import mmap
import os
import shutil
import subprocess
import unittest

import guest
import machine as machines
import slowstore
from daemon import Daemon
from hugepages import HugePages
from machine import INCOMING, Machine, hardware, memory, memory_memfd

QEMU = "qemu-system-x86_64"
HERE = os.path.dirname(os.path.realpath(__file__))
TOOLS = os.path.join(HERE, "../../tools/qemu")
DATA_MIB = 160
MINNOW = AGENT = FOLDER = None  # set by restores.py
ALL = False  # also what takes too long for CI


def lacking():
    """Why this machine can run no test here; "" when it can."""
    if not shutil.which(QEMU):
        return f"{QEMU} is not installed"
    if os.geteuid() != 0:
        return "not root: QEMU needs a userfaultfd that sees the faults of system calls too"
    return ""


class Saved:
    """A guest that was booted, filled with data and saved by minnow-save, once for all tests."""

    def __init__(self):
        self.folder = os.path.join(FOLDER, "run")
        shutil.rmtree(self.folder, ignore_errors=True)
        os.makedirs(self.folder)
        self.kernel, self.initramfs = guest.prepare(FOLDER, AGENT, DATA_MIB)
        self.directory = os.path.join(self.folder, "saved")
        self.ram, self.state = (os.path.join(self.directory, name) for name in ("ram", "state"))
        running = f"/dev/shm/minnow-vm-{os.getpid()}"
        qmp = os.path.join(self.folder, "qmp-user")
        booted = Machine(self.folder, "booted", [QEMU, *hardware(self.kernel, self.initramfs), *memory(running, True),
                                                 "-qmp", f"unix:{qmp},server=on,wait=off"])
        try:
            booted.wait_ready()
            self.sum, wrong = booted.sum()
            assert wrong == 0, f"{wrong} words are wrong in a guest that was never saved"
            self.info = booted.info()
            saved = subprocess.run([os.path.join(TOOLS, "minnow-save"), qmp, self.directory], stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False)
            assert saved.returncode == 0, saved.stdout
            self.said = saved.stdout
        finally:
            booted.end()
            os.remove(running)

    def remove(self):
        shutil.rmtree(self.folder, ignore_errors=True)

    def hardware(self):
        return [QEMU, *hardware(self.kernel, self.initramfs)]

    def plain(self, path, *options):
        """The command of a guest restored from `path` without minnow."""
        return [*self.hardware(), *memory(path, False, *options), *INCOMING]

    def lazy(self, daemon, *options):
        """The command of a guest restored from the image through the daemon."""
        return [*daemon.run("--map", f"{self.ram}=guest", *options), *self.hardware(),
                *memory(self.ram, False, "align=2M", "reserve=off"), *INCOMING]

    def lazy_memfd(self, daemon, *options):
        """The same, in memory that QEMU makes itself and that has no path."""
        return [*daemon.run("--memfd", "memory-backend-memfd=guest"), *self.hardware(),
                *memory_memfd(False, "reserve=off", *options), *INCOMING]


def saved():
    """The saved guest; made by the first test that wants it."""
    if not hasattr(saved, "made"):
        saved.made = Saved()
    return saved.made


def longer(test):
    """Of a test that takes too long for CI."""
    return unittest.skipUnless(ALL, "tools/test --all runs it")(test)


@contextlib.contextmanager
def huge_copy():
    """The path of a copy of the image in 2 MiB pages. It stays mapped here: what a guest maps besides is not private then."""
    size = os.stat(saved().ram).st_size
    with HugePages(size >> 20), contextlib.closing(os.fdopen(os.memfd_create("copy", os.MFD_HUGETLB), "r+b")) as file:
        file.truncate(size)
        with mmap.mmap(file.fileno(), size) as copy, open(saved().ram, "rb") as image:
            image.readinto(copy)
            yield f"/proc/{os.getpid()}/fd/{file.fileno()}"


class GuestTest(unittest.TestCase):
    """Ends, in the right order, whatever a test has started."""

    def serve(self, uri=None, backing="shmem", guests=1, **options):
        """A daemon for so many guests at once; on hugetlb-2M each may come to write all of its memory, beside the image."""
        if backing == "hugetlb-2M":
            self.enterContext(HugePages((1 + guests) * machines.MEMORY_MIB + 64))
            options.setdefault("budget_mib", machines.MEMORY_MIB + 32)
        daemon = Daemon(MINNOW, saved().folder, uri or f"file://{saved().ram}", backing, **options)
        self.addCleanup(daemon.end)
        return daemon

    def slow(self, **options):
        if why := slowstore.lacking():
            self.skipTest(why)
        store = slowstore.SlowStore(saved().folder, saved().ram, **options)
        self.addCleanup(store.close)
        return store

    def machine(self, name, command, **options):
        started = Machine(saved().folder, name, command, **options)
        self.addCleanup(started.end)
        return started

    def restored(self, daemon, name="1", *options):
        """A guest restored through the daemon, and the seconds until it answered."""
        return self.restored_by(name, saved().lazy(daemon, *options))

    def restored_by(self, name, command):
        started = self.machine(name, command)
        return started, started.restore(saved().state)

    @staticmethod
    def sums(machines):
        """Of guests that are at it together: what each one's sum() would be."""
        for machine in machines:
            machine.console.send("sum")
        return [machine.sum(asked=True) for machine in machines]

    def assert_same(self, machine, timeout=None):
        """Every byte of the guest's data is what it was when it was saved."""
        checksum, wrong = machine.sum(timeout)
        self.assertEqual(wrong, 0, "words of the guest's memory that are not what was written there")
        self.assertEqual(checksum, saved().sum)


__all__ = ["GuestTest", "HugePages", "Saved", "huge_copy", "saved", "lacking", "longer"]
