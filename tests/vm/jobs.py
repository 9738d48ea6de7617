# SPDX-License-Identifier: MIT
"""Programs of the host run inside a guest with NUMA nodes: a Debian kernel under QEMU without hardware virtualisation.

A guest is given a list of jobs, runs them one after the other and is ended. It has three serial lines: the
console, where the kernel and the jobs' stderr write; the jobs' stdout; and one on which its init says what it is doing.
"""
import ctypes
import dataclasses
import itertools
import os
import re
import selectors
import shlex
import signal
import subprocess
import sys
import tempfile
import time

import debian
from initramfs import EXT4, VIRTIO, Initramfs
from machine import Hang, end_process



@dataclasses.dataclass(frozen=True)
class Architecture:
    """What differs between the guests of two architectures."""
    qemu: str
    machine: list
    terminals: tuple  # of the console, the jobs' stdout, the init
    serial: str  # the options of each of the other two lines, where `-serial` makes one alone


ARCHITECTURES = {
    # Without cmpxchg16b: QEMU 7.2 emulates it wrongly where there are several CPUs, and 6.12 dies of that.
    "amd64": Architecture("qemu-system-x86_64", ["-machine", "pc", "-cpu", "qemu64,+pdpe1gb,-cx16"], ("ttyS0", "ttyS1", "ttyS2"), ""),
    # The architecture's own pointer authentication would be half of what is emulated.
    "arm64": Architecture("qemu-system-aarch64", ["-machine", "virt,gic-version=3", "-cpu", "max,pauth-impdef=on,sve=off"],
                          ("ttyAMA0", "ttyS0", "ttyS1"), "pci-serial"),
}
SLOWER = 5  # how many times longer than on the machine itself things may take, when that does little else
BOOT_SECONDS = 24  # this and the next one times as much
BETWEEN_SECONDS = 6  # from one job to the next
PR_SET_PDEATHSIG = 1
HUGE_PAGE = "/sys/devices/system/node/node%d/hugepages/hugepages-2048kB/nr_hugepages"
INIT = """#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
export MINNOW_TEST_SLOWNESS=%(slower)d
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /tmp /var/tmp
mount -t tmpfs shm /dev/shm
exec </dev/null >/dev/%(console)s 2>&1
%(modules)s
for line in %(console)s %(out)s %(status)s; do stty -F /dev/$line raw; done
exec 8>/dev/%(out)s 9>/dev/%(status)s
# What is run from there was unpacked there: it moves along.
busybox mke2fs /dev/vda >/dev/null && mount -t ext4 /dev/vda /mnt && mkdir /mnt/tmp /mnt/var && cp -a /tmp/. /mnt/tmp &&
    cp -a /var/tmp/. /mnt/var && chmod 1777 /mnt/tmp /mnt/var && mount --bind /mnt/tmp /tmp &&
    mount --bind /mnt/var /var/tmp || echo lacks a disk >&9
huge_pages() {
%(huge_pages)s
}
for job in /jobs/*; do
    huge_pages
    echo start ${job##*/} >&9
    setsid sh $job >&8 2>/dev/%(console)s 8>&- 9>&-
    status=$?
    kill -9 -1
    for line in %(console)s %(out)s %(status)s; do stty -F /dev/$line raw; done # which waits until all was sent
    echo end ${job##*/} $status >&9
done
sleep 1000000 # for QEMU is ended now
"""
SET_HUGE_PAGES = """    echo %(count)d >%(path)s
    read got <%(path)s
    [ $got = %(count)d ] || echo lacks $((%(count)d - got)) of %(count)d huge pages of 2 MiB on node %(node)d >&9"""


class GuestError(RuntimeError):
    """The guest could not be made, or is not what was asked for."""


@dataclasses.dataclass
class Shape:
    """The machine that a guest sees."""
    kernel: str = "6.1"
    nodes: int = 1
    cpus: int = 0  # per node; 0: two where there is one node, else one
    node_mib: int = 512
    huge_pages: int = 0  # of 2 MiB, per node
    distances: dict = dataclasses.field(default_factory=dict)  # (node, node): distance, in both directions
    disk_mib: int = 1024
    architecture: str = "amd64"
    slower: int = SLOWER

    def about(self):
        return ARCHITECTURES[self.architecture]

    def options(self, image, initramfs, disk):
        cpus = self.cpus or (2 if self.nodes == 1 else 1)
        words = [*self.about().machine, "-accel", "tcg,thread=multi", "-smp", str(cpus * self.nodes),
                 "-m", f"{self.node_mib * self.nodes}M", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                 "-kernel", image, "-initrd", initramfs,
                 "-append", f"console={self.about().terminals[0]} quiet panic=-1 oops=panic",
                 "-drive", f"file={disk},format=raw,if=virtio,cache=unsafe"]
        for node in range(self.nodes):
            words += ["-object", f"memory-backend-ram,id=ram{node},size={self.node_mib}M",
                      "-numa", f"node,nodeid={node},memdev=ram{node},cpus={node * cpus}-{node * cpus + cpus - 1}"]
        for a, b in itertools.permutations(range(self.nodes), 2) if self.distances else ():  # QEMU wants all, or none
            distance = self.distances.get((a, b)) or self.distances.get((b, a)) or 20
            words += ["-numa", f"dist,src={a},dst={b},val={distance}"]
        return words


@dataclasses.dataclass
class Job:
    """A command for a guest, and how it ended there. `command` begins with the path of the program on the host."""
    command: list
    timeout: float = 120
    folder: str = "/"
    environment: dict = dataclasses.field(default_factory=dict)
    status: int = None  # as a shell gives it: 128 + signal
    seconds: float = None

    def script(self):
        variables = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in self.environment.items())
        return f"ulimit -c 0\n{variables}cd {shlex.quote(self.folder)}\nexec {shlex.join(self.command)}\n".encode()


def _initramfs(shape, jobs, files):
    kernel = debian.kernel(shape.kernel, shape.architecture)
    made = Initramfs(kernel, debian.busybox(shape.architecture), shape.architecture)
    for folder in ("/mnt", "/jobs", "/etc"):
        made.folder(folder)
    made.write("/etc/passwd", b"root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n")
    made.write("/etc/group", b"root:x:0:\nnogroup:x:65534:\n")
    for number, job in enumerate(jobs):
        made.write(f"/jobs/{number:03}", job.script())
        made.folder(job.folder)
        made.bring(job.command[0])
    for path in files:
        made.bring(path)
    huge_pages = [SET_HUGE_PAGES % {"count": shape.huge_pages, "path": HUGE_PAGE % node, "node": node}
                  for node in range(shape.nodes)]
    words = {**dict(zip(Guest.LINES, shape.about().terminals)), "slower": shape.slower, "modules": made.modules([*VIRTIO, "virtio_blk", *EXT4]),
             "huge_pages": "\n".join(huge_pages) if shape.huge_pages else "    true"}
    made.write("/init", (INIT % words).encode())
    return made


def _die_with_parent():
    """No guest outlives the program that started it, however that ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Guest:
    """One guest from its first instruction to its end, and the jobs it runs."""

    LINES = ("console", "out", "status")  # in the order of the serial lines

    def __init__(self, shape, jobs, show, files=(), ended=lambda job: None):
        """`show(job, line, data)` is called with what is written when it is written; `line` is "out" or "console", `job` None
        while the guest boots. `files` are what the jobs need besides their programs. `ended(job)` is called when it has."""
        self.shape, self.jobs, self.show, self.files, self.ended = shape, jobs, show, files, ended
        self.running = None  # the job
        self.started = 0
        self.tail = b""  # the end of the console
        self.said = b""  # what the init has said and is not a whole line yet

    def run(self):
        """Every job has its status when this returns. Raises Hang or GuestError when the guest does not get so far; the first
        job without a status is the one that it ran then."""
        with tempfile.TemporaryDirectory(prefix="minnow-guest-") as folder, tempfile.TemporaryFile() as self.log:
            made = _initramfs(self.shape, self.jobs, self.files)
            initramfs, disk = (os.path.join(folder, name) for name in ("initramfs", "disk"))
            made.save(initramfs)
            with open(disk, "wb") as out:
                out.truncate(self.shape.disk_mib << 20)
            self._boot(self.shape.options(made.kernel.image, initramfs, disk))
            try:
                self._follow()
            finally:
                end_process(self.process)
                for pipe in self.pipes:
                    os.close(pipe)

    def _boot(self, options):
        pairs = [os.pipe() for _ in self.LINES]
        self.pipes = [pair[0] for pair in pairs]
        theirs = [pair[1] for pair in pairs]
        device = self.shape.about().serial
        serial = []
        for number, end in enumerate(theirs):
            if number and device:
                serial += ["-chardev", f"file,id=line{number},path=/proc/self/fd/{end}", "-device", f"{device},chardev=line{number}"]
            else:
                serial += ["-serial", f"file:/proc/self/fd/{end}"]
        self.process = subprocess.Popen([self.shape.about().qemu, *options, *serial], stdin=subprocess.DEVNULL, stdout=self.log,
                                        stderr=subprocess.STDOUT, pass_fds=theirs, preexec_fn=_die_with_parent)
        for end in theirs:
            os.close(end)

    def _follow(self):
        """Reads all three lines until all is done, or QEMU closes them."""
        self.deadline = time.monotonic() + BOOT_SECONDS * self.shape.slower
        with selectors.DefaultSelector() as selector:
            for name, pipe in zip(self.LINES, self.pipes):
                selector.register(pipe, selectors.EVENT_READ, name)
            while any(job.status is None for job in self.jobs):
                if not selector.get_map():
                    raise GuestError(f"the guest ended while it {self._doing()}\n{self._explained()}")
                ready = selector.select(max(0, self.deadline - time.monotonic()))
                if not ready:
                    raise Hang(f"the guest {self._doing()} for too long and was ended\n{self._explained()}")
                # In the order of LINES: what a job wrote was sent before its end is said.
                for key in sorted((key for key, _ in ready), key=lambda key: self.LINES.index(key.data)):
                    data = os.read(key.fd, 65536)
                    if data:
                        getattr(self, "_" + key.data)(data)
                    else:
                        selector.unregister(key.fd)

    def _console(self, data):
        data = data.replace(b"\r", b"")
        self.tail = (self.tail + data)[-3000:]
        self.show(self.running, "console", data)

    def _out(self, data):
        self.show(self.running, "out", data)

    def _status(self, data):
        *lines, self.said = (self.said + data).split(b"\n")
        for line in lines:
            words = line.decode(errors="replace").split()
            now = time.monotonic()
            if match := re.fullmatch(r"start (\d+)", " ".join(words)):
                self.running, self.started = self.jobs[int(match[1])], now
                self.deadline = now + self.running.timeout
            elif match := re.fullmatch(r"end (\d+) (\d+)", " ".join(words)):
                self.running.status, self.running.seconds = int(match[2]), now - self.started
                self.ended(self.running)
                self.running = None
                self.deadline = now + BETWEEN_SECONDS * self.shape.slower
            else:
                raise GuestError(f"the guest {' '.join(words)}\n{self._explained()}")

    def _doing(self):
        if self.running:
            return f"ran {shlex.join(self.running.command)}"
        return "was between two jobs" if self.started else "booted"

    def _explained(self):
        self.log.seek(0)
        said = self.log.read()[-2000:].decode(errors="replace")
        return (f"---- console, the end of it:\n{self.tail.decode(errors='replace')}\n----\n"
                f"QEMU said: {said or 'nothing'}")


def end_in_order():
    """SIGTERM ends this program as an error would: with its guest, and what lies in folders for it."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


def lacking(architecture="amd64"):
    """Why this machine can run no guest; "" when it can."""
    qemu = ARCHITECTURES[architecture].qemu
    for folder in os.environ.get("PATH", "").split(":"):
        if os.access(os.path.join(folder, qemu), os.X_OK):
            return ""
    return f"{qemu} is not installed"


__all__ = ["ARCHITECTURES", "Shape", "Job", "Guest", "GuestError", "Hang", "end_in_order", "lacking"]
