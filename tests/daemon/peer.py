# SPDX-License-Identifier: MIT
"""A peer of the daemon that speaks the protocol byte by byte, so that it can also speak it wrongly; and the daemon."""
import array
import ctypes
import fcntl
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

HELLO, LIST, OPEN, ATTACH, DETACH, PREFETCH, CANCEL, PIN, UNPIN, INVALIDATE, STATS, RESIDENCY, BUDGET, RECORD, REPLAY, \
    CLAIM, END = range(1, 18)
EVENT_PREFETCH, EVENT_RESTARTED, EVENT_DETACHED, EVENT_ENDED = range(64, 68)
HEADER = struct.Struct("=HHIiI")
NAME = 64
VERSION = 1
IMAGE = struct.Struct("=64s64sQQIIIIII")
PAGE = 4096

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mremap.restype = ctypes.c_void_p
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.syscall.restype = ctypes.c_long

UFFDIO_API = 0xC018AA3F
UFFDIO_UNREGISTER = 0x8010AA01
EVENT_FORK, EVENT_REMAP, EVENT_REMOVE, MISSING_HUGETLBFS, MISSING_SHMEM, EVENT_UNMAP = (1 << n for n in range(1, 7))
MINOR_HUGETLBFS, MINOR_SHMEM, POISON = 1 << 9, 1 << 10, 1 << 14
FEATURES = EVENT_REMAP | EVENT_UNMAP | MISSING_HUGETLBFS | MISSING_SHMEM | MINOR_HUGETLBFS | MINOR_SHMEM


def name(text):
    return text.encode().ljust(NAME, b"\0") if isinstance(text, str) else text


def message(kind, request, body=b"", length=None, status=0, reserved=0):
    return HEADER.pack(kind, HEADER.size + len(body) if length is None else length, request, status, reserved) + body


class Answer:
    def __init__(self, packet, fds):
        self.kind, self.length, self.request, self.status, _ = HEADER.unpack_from(packet)
        self.body = packet[HEADER.size:]
        self.fds = fds
        self.text = self.body.split(b"\0", 1)[0].decode() if self.status else ""

    def __repr__(self):
        return f"<type {self.kind} request {self.request} status {self.status} {self.text!r} {len(self.fds)} fds>"


class Gone(Exception):
    """The daemon has closed the session."""


def open_userfaultfd(flags):
    fd = libc.syscall(323, flags | 1)
    if fd < 0:
        fd = libc.syscall(323, flags)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "userfaultfd")
    return fd


def offered():
    """The features of this kernel."""
    fd = open_userfaultfd(os.O_CLOEXEC)
    answer = fcntl.ioctl(fd, UFFDIO_API, struct.pack("=QQQ", 0xAA, 0, 0))
    os.close(fd)
    return struct.unpack("=QQQ", answer)[1]


def userfaultfd(features=FEATURES, flags=os.O_CLOEXEC | os.O_NONBLOCK):
    """With these features, and with poison where the kernel has it; None: before the handshake."""
    fd = open_userfaultfd(flags)
    if features is not None:
        features |= offered() & POISON
        fcntl.ioctl(fd, UFFDIO_API, struct.pack("=QQQ", 0xAA, features, 0))
    return fd


def map_private(fd, length, offset=0, address=None, writable=False):
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    found = libc.mmap(address, length, protection, 2 | 0x4000 | (0x10 if address else 0), fd, offset)
    if found == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap")
    return found


def die_with_parent():
    """In a child of a test that may end early."""
    libc.prctl(1, signal.SIGKILL)


def unmap(uffd, address, length):
    """With nobody left to read the event of it, munmap(2) of a registered range would wait for ever."""
    fcntl.ioctl(uffd, UFFDIO_UNREGISTER, struct.pack("=QQ", address, length))
    libc.munmap(address, length)
    os.close(uffd)


class Peer:
    """One session. `greet` False: says nothing by itself."""

    def __init__(self, path, greet=True, timeout=20):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(timeout)
        try:
            self.socket.connect(path)
        except OSError:
            self.socket.close()
            raise
        self.request = 0
        self.events = []
        if greet:
            self.hello = self.ask(HELLO, struct.pack("=II", VERSION, 0) + name("peer.py"))
            assert self.hello.status == 0, self.hello

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send(self, packet, fds=()):
        try:
            self.socket.sendmsg([packet], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else [])
        except (BrokenPipeError, ConnectionResetError):
            raise Gone from None

    def receive(self):
        try:
            packet, ancillary, _, _ = self.socket.recvmsg(8192, socket.CMSG_SPACE(16 * 4))
        except ConnectionResetError:
            raise Gone from None
        if not packet:
            raise Gone
        fds = array.array("i")
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(data[:len(data) - len(data) % 4])
        return Answer(packet, list(fds))

    def start(self, kind, body=b"", fds=()):
        self.request += 1
        self.send(message(kind, self.request, body), fds)
        return self.request

    def wait(self, request):
        while True:
            answer = self.receive()
            if answer.request == request:
                return answer
            self.events.append(answer)
            if answer.kind == EVENT_ENDED:
                raise Gone(answer.text)

    def ask(self, kind, body=b"", fds=()):
        return self.wait(self.start(kind, body, fds))

    def wait_event(self, kind):
        while True:
            for event in self.events:
                if event.kind == kind:
                    self.events.remove(event)
                    return event
            self.events.append(self.receive())

    # ---- requests, as they should be ----

    def open(self, image):
        answer = self.ask(OPEN, name(image))
        if answer.status:
            return answer
        answer.image, _, answer.device, answer.inode = struct.unpack_from("=IIQQ", answer.body)
        fields = IMAGE.unpack_from(answer.body, 24)
        answer.size, answer.page = fields[2], fields[4]
        answer.fd = answer.fds[0]
        return answer

    def attach(self, image, view, address, length, offset, uffd, flags=0):
        fds = (uffd,) if isinstance(uffd, int) else tuple(uffd)
        return self.ask(ATTACH, struct.pack("=IIIIQQQ", image, view, flags, 0, address, length, offset), fds)

    def detach(self, view):
        return self.ask(DETACH, struct.pack("=II", view, 0))

    def range(self, kind, image, offset, length, cookie=0):
        return self.ask(kind, struct.pack("=IIQQQ", image, 0, offset, length, cookie))

    def stats(self, form=0):
        answer = self.ask(STATS, struct.pack("=II", form, 0))
        if answer.status == 0:
            size, = struct.unpack("=Q", answer.body)
            answer.data = os.pread(answer.fds[0], size, 0)
            os.close(answer.fds[0])
        return answer


class View:
    """A mapping of an image that the daemon serves. Reading an untouched page waits for the daemon."""

    def __init__(self, peer, image, view=1, length=None, offset=0, writable=False):
        self.peer, self.view = peer, view
        self.opened = peer.open(image)
        assert self.opened.status == 0, self.opened
        page = self.opened.page
        self.length = length or (self.opened.size + page - 1) // page * page
        self.offset = offset
        self.address = map_private(self.opened.fd, self.length, offset, writable=writable)
        self.uffd = userfaultfd()
        self.answer = peer.attach(self.opened.image, view, self.address, self.length, offset, self.uffd,
                                  1 if writable else 0)
        assert self.answer.status == 0, self.answer

    def read(self, offset, length):
        return ctypes.string_at(self.address + offset, length)

    def close(self):
        answer = self.peer.detach(self.view)
        unmap(self.uffd, self.address, self.length)
        os.close(self.opened.fd)
        return answer


def sanitized():
    return os.environ.get("MINNOW_SANITIZE", "none") not in ("", "none")


class Daemon:
    """`minnow serve` in a folder of its own."""

    def __init__(self, command, images, arguments=(), config=None, budget="64M", environment=None, wait=True,
                 stderr=None):
        self.folder = tempfile.TemporaryDirectory(prefix="minnow-daemon-")
        os.chmod(self.folder.name, 0o755)  # its worker may become another user
        self.path = os.path.join(self.folder.name, "socket")
        self.log = open(os.path.join(self.folder.name, "log"), "w+", encoding="utf-8")
        call = [command, "serve", "--socket", self.path]
        if sanitized():
            call.append("--no-sandbox")
        if config is not None:
            self.config = os.path.join(self.folder.name, "minnow.conf")
            with open(self.config, "w", encoding="utf-8") as file:
                file.write(config)
            call += ["--config", self.config]
        else:
            call += ["--budget", budget]
        for image, path in images.items():
            call += ["--image", f"{image}={path}"]
        self.process = subprocess.Popen(call + list(arguments), stdin=subprocess.DEVNULL, stdout=self.log,
                                        stderr=self.log if stderr is None else stderr, env={**os.environ, **(environment or {})})
        if wait:
            self.wait_ready()

    def wait_ready(self, seconds=20):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self.process.poll() is not None:
                break
            try:
                Peer(self.path).close()
                return
            except (OSError, Gone):
                time.sleep(0.01)
        raise AssertionError("the daemon did not start: " + self.read_log())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def read_log(self):
        self.log.flush()
        with open(self.log.name, encoding="utf-8", errors="replace") as file:
            return file.read()

    def workers(self):
        with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children", encoding="ascii") as file:
            return [int(pid) for pid in file.read().split()]

    def worker(self):
        children = self.workers()
        return children[0] if children else None

    def wait_worker(self, other, asked=True, seconds=20):
        """The worker that comes after `other`, once it answers; not `asked`, nobody connects to it."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            pid = self.worker()
            if pid and pid != other:
                try:
                    if asked:
                        Peer(self.path).close()
                    return pid
                except (OSError, Gone):
                    pass
            time.sleep(0.005)
        raise AssertionError("no new worker: " + self.read_log())

    def kill_worker(self):
        pid = self.worker()
        if pid:
            os.kill(pid, signal.SIGKILL)
        return pid

    def stop(self, sign=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(sign)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def close(self):
        if self.process.poll() is None:
            self.stop()
        self.log.close()
        self.folder.cleanup()


def make_image(folder, megabytes, seed=1):
    """Bytes of which every page says where it belongs."""
    path = os.path.join(folder, f"image-{seed}")
    with open(path, "wb") as file:
        for page in range(megabytes << 8):
            file.write(struct.pack("=QQ", seed, page) * 256)
    return path


def page_bytes(page, seed=1):
    return struct.pack("=QQ", seed, page) * 256
