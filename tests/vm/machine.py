# SPDX-License-Identifier: MIT
"""One QEMU: its processes, its serial console, its QMP socket. A guest that does not answer in time is ended, and what
its console said last is shown."""
import fcntl
import os
import re
import selectors
import signal
import socket
import struct
import subprocess
import sys
import termios
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "../../tools/qemu"))
from qmp import Qmp, QmpError  # noqa: E402 (its folder was just named)

MEMORY_MIB = 512
PING_SECONDS = 0.005


class Hang(AssertionError):
    """The guest did not say in time what it should have said."""


def hardware(kernel, initramfs):
    """The machine that every guest of the tests is, without its memory."""
    return ["-machine", "pc,accel=tcg", "-cpu", "qemu64", "-smp", "1", "-m", f"{MEMORY_MIB}M",
            "-nodefaults", "-no-user-config", "-display", "none", "-device", "virtio-balloon-pci,id=balloon",
            "-kernel", kernel, "-initrd", initramfs, "-append", "console=ttyS0 quiet panic=1 reboot=t"]


def memory(path, share, *more):
    return ["-object", ",".join(["memory-backend-file", "id=ram", f"size={MEMORY_MIB}M", f"mem-path={path}",
                                 f"share={'on' if share else 'off'}", *more]), "-machine", "memory-backend=ram"]


def memory_memfd(share, *more):
    return ["-object", ",".join(["memory-backend-memfd", "id=ram", f"size={MEMORY_MIB}M", f"share={'on' if share else 'off'}",
                                 *more]), "-machine", "memory-backend=ram"]


INCOMING = ["-incoming", "defer"]


def end_process(process):
    """Ends a QEMU; one that hangs is killed."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Console:
    """The listening end of a guest's serial line, made before the guest is: QEMU connects to it."""

    def __init__(self, path):
        self.path = path
        self.text = b""
        self.seen = 0  # how much of `text` answers have taken
        self.peer = None
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        if os.path.exists(path):
            os.remove(path)
        self.listener.bind(path)
        self.listener.listen(1)
        self.pings = 0

    def _receive(self, seconds):
        with selectors.DefaultSelector() as selector:
            selector.register(self.peer or self.listener, selectors.EVENT_READ)
            if not selector.select(max(0, seconds)):
                return
        if not self.peer:
            self.peer, _ = self.listener.accept()
            self.peer.setblocking(False)
            return
        got = self.peer.recv(65536)
        if not got:
            raise Hang(f"QEMU closed its console\n{self.tail()}")
        self.text += got

    def expect(self, pattern, deadline):
        """The match of a whole line by `pattern`, looked for behind what was found before."""
        wanted = re.compile(rb"^" + pattern.encode() + rb"\r*$", re.M)
        while True:
            end = self.text.rfind(b"\n") + 1
            match = wanted.search(self.text, self.seen, max(end, self.seen))
            if match:
                self.seen = match.end()
                return match
            left = deadline - time.monotonic()
            if left <= 0:
                raise Hang(f"no {pattern!r} on the console\n{self.tail()}")
            self._receive(left)

    def _unread_by_peer(self):
        """QEMU takes no more than the guest does: what piles up here would be in the way later."""
        return struct.unpack("i", fcntl.ioctl(self.peer, termios.TIOCOUTQ, bytes(4)))[0]

    def send(self, line):
        while not self.peer:
            self._receive(1)
        self.peer.sendall(line.encode() + b"\n")

    def ping_until(self, deadline):
        """Seconds on the clock at which the guest first answered. What is sent before a restored machine runs is lost,
        so it is asked again and again."""
        while True:
            self.pings += 1
            if self.peer and self._unread_by_peer() < 100:
                self.peer.sendall(b"ping %d\n" % self.pings)
            due = time.monotonic() + PING_SECONDS
            while (left := due - time.monotonic()) > 0:
                self._receive(left)
                if re.search(rb"^@pong \d+\r*$", self.text[self.seen:], re.M):
                    return time.monotonic()
            if time.monotonic() > deadline:
                raise Hang(f"no answer on the console\n{self.tail()}")

    def settle(self, deadline):
        """Leaves nothing unread of the pings."""
        self.send("")
        self.send("ping settled")
        self.expect("@pong settled", deadline)

    def tail(self):
        return "---- console, the end of it:\n" + self.text[-3000:].decode(errors="replace") + "\n----"

    def close(self):
        for end in (self.peer, self.listener):
            if end:
                end.close()
        if os.path.exists(self.path):
            os.remove(self.path)


def view_kib(pid):
    """(what the memory of a guest holds that is this guest's alone, all of it that was touched), in KiB."""
    found, inside = None, False
    with open(f"/proc/{pid}/smaps", encoding="ascii", errors="replace") as smaps:
        for line in smaps:
            word, *rest = line.split()
            if re.fullmatch(r"[0-9a-f]+-[0-9a-f]+", word):
                first, last = (int(part, 16) for part in word.split("-"))
                inside = last - first == MEMORY_MIB << 20
                found = {} if inside else found
            elif inside and rest and rest[0].isdigit():
                found[word[:-1]] = int(rest[0])
    if found is None:
        raise AssertionError(f"process {pid} has no mapping of {MEMORY_MIB} MiB")
    private = found["Anonymous"] + found["Private_Hugetlb"]
    return private, found["Rss"] + found["Private_Hugetlb"] + found["Shared_Hugetlb"]


class Machine:
    """A QEMU and whatever it was started through; `command` begins with the program."""

    def __init__(self, folder, name, command, timeout=60):
        self.name = str(name)
        self.timeout = timeout
        self.console = Console(os.path.join(folder, f"serial-{self.name}"))
        ours, options, theirs = Qmp.pair()
        self.log_path = os.path.join(folder, f"log-{self.name}")
        self.log = open(self.log_path, "wb")
        self.started = time.monotonic()
        serial = ["-serial", f"unix:{self.console.path}"]
        self.process = subprocess.Popen([*command, *serial, *options], stdin=subprocess.DEVNULL, stdout=self.log,
                                        stderr=subprocess.STDOUT, pass_fds=[theirs.fileno()])
        theirs.close()
        self._monitor, self._qmp = ours, None

    def _explained(self, hang):
        status = self.process.poll()
        with open(self.log_path, "rb") as log:
            said = log.read()[-2000:].decode(errors="replace")
        return Hang(f"guest {self.name}: {hang}\nQEMU {'runs' if status is None else f'ended with {status}'}; it said:\n{said}")

    def ask(self, line, answer, timeout=None):
        """What the guest answers to a command: its groups, numbers as numbers."""
        try:
            self.console.send(line)
            match = self.console.expect(answer, time.monotonic() + (timeout or self.timeout))
        except (Hang, OSError) as hang:
            raise self._explained(hang) from None
        words = [group.decode() for group in match.groups()]
        return [int(word) if word.isdigit() else word for word in words]

    def wait_ready(self, timeout=None):
        """The guest has booted and filled its memory."""
        try:
            said = self.console.expect("@(ready|error .*)", time.monotonic() + (timeout or self.timeout)).group(1)
        except (Hang, OSError) as hang:
            raise self._explained(hang) from None
        if said != b"ready":
            raise self._explained(self.console.tail())

    def first_answer(self, timeout=None):
        """Seconds from the start of the program to the guest's first answer."""
        deadline = time.monotonic() + (timeout or self.timeout)
        try:
            moment = self.console.ping_until(deadline)
            self.console.settle(deadline)
        except (Hang, OSError) as hang:
            raise self._explained(hang) from None
        return moment - self.started

    def sum(self, timeout=None, asked=False):
        """(checksum, words that are wrong) of all the guest's data; `asked`: "sum" was sent already."""
        checksum, wrong, _, _ = self.ask("" if asked else "sum", r"@sum (\w+) wrong (\d+) zeros (\d+) us (\d+)", timeout)
        return str(checksum), wrong

    def info(self):
        answer = self.ask("info", r"@info pages (\d+) total_kib (\d+) available_kib (\d+) boot (\S+)")
        return dict(zip(("pages", "total_kib", "available_kib", "boot"), answer))

    def qmp(self):
        if not self._qmp:
            try:
                self._qmp = Qmp(self._monitor, self.timeout)
            except (QmpError, OSError) as error:
                raise self._explained(error) from None
        return self._qmp

    def restore(self, state):
        """Seconds from the start of the program to the first answer of the guest restored from `state`."""
        try:
            self.qmp().restore(state)
        except (QmpError, OSError) as error:
            raise self._explained(error) from None
        return self.first_answer()

    def view_kib(self):
        return view_kib(self.process.pid)

    def end(self):
        """Ends the QEMU; its exit status."""
        end_process(self.process)
        self._monitor.close()
        self.console.close()
        self.log.close()
        return self.process.returncode


__all__ = ["Machine", "Hang", "view_kib", "end_process", "Qmp", "QmpError", "hardware", "memory", "INCOMING", "MEMORY_MIB"]
