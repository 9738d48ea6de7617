#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Peers that misbehave, one way to a test: COMMAND. Each is refused or ended with a message; another peer reads on.

The other peer is a process of its own that compares every byte it reads, from before the first test until after the
last; the worker must be the same one all the time.
"""
import ctypes
import errno
import fcntl
import json
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import peer
from peer import (ATTACH, BUDGET, CANCEL, DETACH, EVENT_ENDED, EVENT_PREFETCH, HELLO, INVALIDATE, LIST, OPEN, PIN, PREFETCH,
                  RECORD, REPLAY, RESIDENCY, STATS, UNPIN, PAGE, Gone, Peer, View, map_private, message, name, userfaultfd)

COMMAND = sys.argv.pop(1)
MEGABYTES = 16
LIMITS = {"views": 8, "bytes": "64M", "pinned": "1M", "prefetches": 4, "requests": 8, "sessions": 40,
          "sessions_per_user": 30, "requests_per_second": 500}


class Peers(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="minnow-peers-")
        image = peer.make_image(cls.folder.name, MEGABYTES)
        other = peer.make_image(cls.folder.name, 2, seed=2)
        config = {"pools": [{"name": "main", "budget": "8M"}], "limits": LIMITS, "admins": {"users": [0]},
                  "access": {"users": [os.getuid(), 65534]},
                  "images": [{"name": "disk", "uri": f"file://{image}"}, {"name": "other", "uri": f"file://{other}"},
                             {"name": "secret", "uri": f"file://{other}", "access": {"users": [12345]}}]}
        cls.daemon = peer.Daemon(COMMAND, {}, config=json.dumps(config))
        cls.worker = cls.daemon.worker()
        here = os.path.dirname(os.path.abspath(__file__))
        cls.reader = subprocess.Popen(
            [sys.executable, os.path.join(here, "reader.py"), cls.daemon.path, "disk", str(MEGABYTES << 8), "1"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert cls.reader.stdout.readline() == "ready\n"

    @classmethod
    def tearDownClass(cls):
        cls.reader.stdin.close()
        try:
            cls.reader.wait(60)
            result = json.loads(cls.reader.stdout.read() or "null")
        finally:
            cls.reader.kill()
            cls.reader.stdout.close()
            log = cls.daemon.read_log()
            status = cls.daemon.stop()
            cls.daemon.close()
            cls.folder.cleanup()
        assert result and result["wrong"] == 0 and result["reads"] > 1000, (result, log)
        assert status == 0, (status, log)
        print(f"meanwhile {result['reads']} pages were read and compared, longest wait {result['longest'] * 1e3:.0f} ms",
              file=sys.stderr)

    def tearDown(self):
        self.assertEqual(self.daemon.worker(), self.worker, "the worker died: " + self.daemon.read_log())
        self.assertIsNone(self.reader.poll(), "the peer that behaves has ended")
        with Peer(self.daemon.path) as session:
            self.assertEqual(session.ask(LIST, struct.pack("=II", 0, 0)).status, 0)

    def peer(self, **arguments):
        session = Peer(self.daemon.path, **arguments)
        self.addCleanup(session.close)
        return session

    def assertEnded(self, session, text):
        """The daemon says why, and hangs up."""
        with self.assertRaises(Gone):
            while True:
                answer = session.receive()
                if answer.kind == EVENT_ENDED:
                    self.assertLess(answer.status, 0)
                    self.assertIn(text, answer.text)
                    session.told = True
        self.assertTrue(getattr(session, "told", False), "hung up without a word")

    def assertRefused(self, answer, error, text=""):
        self.assertEqual(answer.status, -error, answer)
        self.assertIn(text, answer.text)
        self.assertGreater(len(answer.text), 10)

    def assertGoesOn(self, session):
        self.assertEqual(session.ask(LIST, struct.pack("=II", 0, 0)).status, 0)

    def mapped(self, session, image="disk", length=1 << 20, offset=0, **arguments):
        opened = session.open(image)
        self.assertEqual(opened.status, 0, opened)
        address = map_private(opened.fd, length, offset, **arguments)
        self.addCleanup(peer.libc.munmap, address, length)
        self.addCleanup(os.close, opened.fd)
        return opened, address

    def uffd(self, **arguments):
        fd = userfaultfd(**arguments)
        self.addCleanup(lambda: self.shut(fd))
        return fd

    def shut(self, fd):
        try:
            os.close(fd)
        except OSError:
            pass

    # ---- messages that are none ----

    def test_shorter_than_a_header(self):
        session = self.peer()
        session.send(b"\1\0\4")
        self.assertEnded(session, "shorter than its header")

    def test_empty_packet(self):
        session = self.peer()
        session.send(b"")
        with self.assertRaises(Gone):
            session.receive()

    def test_longer_than_any_message(self):
        session = self.peer()
        session.send(message(LIST, 9, b"\0" * 5000))
        self.assertEnded(session, "longer than")

    def test_length_that_lies(self):
        session = self.peer()
        session.send(message(LIST, 9, b"\0" * 8, length=4000))
        self.assertEnded(session, "says that it has 4000")

    def test_body_cut_short(self):
        session = self.peer()
        session.send(message(PREFETCH, 9, b"\0" * 8))
        self.assertEnded(session, "PREFETCH has")

    def test_body_too_long(self):
        session = self.peer()
        session.send(message(LIST, 9, b"\0" * 16))
        self.assertEnded(session, "LIST has")

    def test_request_number_zero(self):
        session = self.peer()
        session.send(message(LIST, 0, b"\0" * 8))
        self.assertEnded(session, "request number 0")

    def test_request_with_a_status(self):
        session = self.peer()
        session.send(message(LIST, 9, b"\0" * 8, status=-5))
        self.assertEnded(session, "status -5")

    def test_reserved_field_of_the_header(self):
        session = self.peer()
        session.send(message(LIST, 9, b"\0" * 8, reserved=1))
        self.assertEnded(session, "reserved field")

    def test_unknown_type(self):
        session = self.peer()
        self.assertRefused(session.ask(63, b""), errno.EOPNOTSUPP, "type 63")
        self.assertRefused(session.ask(EVENT_PREFETCH, b"\0" * 24), errno.EOPNOTSUPP)
        self.assertGoesOn(session)

    def test_before_hello(self):
        session = self.peer(greet=False)
        session.send(message(LIST, 1, b"\0" * 8))
        self.assertEnded(session, "first message of a session is HELLO")

    def test_wrong_version(self):
        session = self.peer(greet=False)
        self.assertRefused(session.ask(HELLO, struct.pack("=II", 0, 0) + name("old")), errno.EPROTONOSUPPORT, "version 1")
        newer = session.ask(HELLO, struct.pack("=II", 77, 0) + name("new"))
        self.assertEqual((newer.status, struct.unpack_from("=I", newer.body)[0]), (0, 1))

    def test_name_without_a_zero(self):
        session = self.peer()
        self.assertRefused(session.ask(OPEN, b"x" * 64), errno.EINVAL, "no final zero")
        self.assertRefused(session.ask(OPEN, b"\0" * 64), errno.EINVAL, "empty name")
        self.assertGoesOn(session)

    def test_reserved_field_of_a_body(self):
        session = self.peer()
        self.assertRefused(session.ask(LIST, struct.pack("=II", 0, 5)), errno.EINVAL, "reserved")
        self.assertGoesOn(session)

    def test_noise(self):
        """Thousands of random packets, each in a session that may or may not survive it."""
        chance = random.Random(11)
        session = Peer(self.daemon.path)
        for _ in range(2000):
            body = chance.randbytes(chance.choice((0, 4, 8, 8, 16, 40, 72, 100)))
            packet = message(chance.randrange(80), chance.randrange(1, 1 << 32), body)
            if chance.random() < 0.2:
                packet = chance.randbytes(chance.randrange(1, 100))
            try:
                session.send(packet)
                session.receive()
            except (Gone, OSError):
                session.close()
                session = Peer(self.daemon.path)
        session.close()

    # ---- descriptors ----

    def test_attach_without_a_descriptor(self):
        session = self.peer()
        opened, address = self.mapped(session)
        session.start(ATTACH, struct.pack("=IIIIQQQ", opened.image, 1, 0, 0, address, 1 << 20, 0))
        self.assertEnded(session, "came with 0 descriptors")

    def test_descriptors_where_none_belong(self):
        session = self.peer()
        session.start(LIST, struct.pack("=II", 0, 0), (0, 1, 2))
        self.assertEnded(session, "came with 3 descriptors")

    def test_far_too_many_descriptors(self):
        session = self.peer()
        session.start(LIST, struct.pack("=II", 0, 0), [0] * 200)
        self.assertEnded(session, "descriptors")

    def test_pipe_instead_of_a_userfaultfd(self):
        session = self.peer()
        opened, address = self.mapped(session)
        ends = os.pipe()
        self.assertRefused(session.attach(opened.image, 1, address, 1 << 20, 0, ends[0]), errno.EINVAL)
        for end in ends:
            os.close(end)
        self.assertGoesOn(session)

    def test_its_own_socket_instead_of_a_userfaultfd(self):
        session = self.peer()
        opened, address = self.mapped(session)
        self.assertRefused(session.attach(opened.image, 1, address, 1 << 20, 0, session.socket.fileno()), errno.EINVAL)
        self.assertRefused(session.attach(opened.image, 1, address, 1 << 20, 0, opened.fd), errno.EINVAL)

    def test_userfaultfd_without_handshake(self):
        session = self.peer()
        opened, address = self.mapped(session)
        answer = session.attach(opened.image, 1, address, 1 << 20, 0, self.uffd(features=None))
        self.assertRefused(answer, errno.EINVAL)
        self.assertGoesOn(session)

    def test_userfaultfd_without_the_features(self):
        session = self.peer()
        opened, address = self.mapped(session)
        self.assertRefused(session.attach(opened.image, 1, address, 1 << 20, 0, self.uffd(features=0)), errno.EINVAL)

    def test_userfaultfd_of_somebody_who_died(self):
        session = self.peer()
        opened, address = self.mapped(session)
        ends = os.pipe()
        child = os.fork()
        if not child:
            os.dup2(userfaultfd(), 100, inheritable=True)
            os.write(ends[1], b"x")
            time.sleep(60)
            os._exit(0)
        os.read(ends[0], 1)
        pidfd = os.pidfd_open(child)
        theirs = peer.libc.syscall(438, pidfd, 100, 0)
        if theirs < 0:
            theirs = self.uffd()
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        answer = session.attach(opened.image, 1, address, 1 << 20, 0, theirs)
        for fd in (*ends, pidfd, theirs):
            self.shut(fd)
        self.assertLess(answer.status, 0)
        self.assertGoesOn(session)

    def test_userfaultfd_made_blocking_afterwards(self):
        """The flags of a description that is shared: a reader that trusts them waits for ever, and everybody with it."""
        session = self.peer()
        view = View(session, "disk", length=4 << 20)
        fcntl.fcntl(view.uffd, fcntl.F_SETFL, 0)
        begin = time.monotonic()
        for page in range(0, 1024, 64):
            self.assertEqual(view.read(page * PAGE, PAGE), peer.page_bytes(page))
        other = View(self.peer(), "other")
        for page in range(0, 512, 64):
            self.assertEqual(other.read(page * PAGE, PAGE), peer.page_bytes(page, 2))
        self.assertLess(time.monotonic() - begin, 10)
        self.assertEqual(other.close().status, 0)
        self.assertEqual(view.close().status, 0)

    # ---- attaching what is not so ----

    def test_addresses_that_are_not_mapped(self):
        session = self.peer()
        opened = session.open("disk")
        self.addCleanup(os.close, opened.fd)
        for address in (PAGE, 0x10000000000, 0x7ffffffff000, 1 << 62, (1 << 64) - (1 << 21)):
            answer = session.attach(opened.image, 1, address, 1 << 20, 0, self.uffd())
            self.assertLess(answer.status, 0, hex(address))
        self.assertRefused(session.attach(opened.image, 1, 0, 1 << 20, 0, self.uffd()), errno.EINVAL)
        self.assertGoesOn(session)

    def test_unaligned(self):
        session = self.peer()
        opened, address = self.mapped(session)
        for at, length, offset in ((address + 1, 1 << 20, 0), (address, 4097, 0), (address, PAGE, 17)):
            self.assertRefused(session.attach(opened.image, 1, at, length, offset, self.uffd()), errno.EINVAL, "multiple")

    def test_beyond_the_image(self):
        session = self.peer()
        opened, address = self.mapped(session)
        for offset, length in ((MEGABYTES << 20, PAGE), (0, (MEGABYTES + 1) << 20), (1 << 63, PAGE), (PAGE, 1 << 63)):
            answer = session.attach(opened.image, 1, address, length, offset, self.uffd())
            self.assertRefused(answer, errno.EINVAL)
        self.assertRefused(session.attach(opened.image, 1, address, 0, 0, self.uffd()), errno.EINVAL)
        self.assertRefused(session.attach(opened.image, 1, address, (1 << 64) - PAGE, PAGE * 2, self.uffd()), errno.EINVAL)

    def test_mapping_of_another_file(self):
        session = self.peer()
        opened = session.open("disk")
        fd = peer.libc.memfd_create(b"mine", 0)
        os.ftruncate(fd, 1 << 20)
        address = map_private(fd, 1 << 20)
        self.assertRefused(session.attach(opened.image, 1, address, 1 << 20, 0, self.uffd()), errno.EINVAL)
        other, there = self.mapped(session, "other")
        self.assertRefused(session.attach(opened.image, 1, there, 1 << 20, 0, self.uffd()), errno.EINVAL)
        peer.libc.munmap(address, 1 << 20)
        for one in (fd, opened.fd):
            os.close(one)

    def test_mapping_of_another_offset(self):
        session = self.peer()
        opened, address = self.mapped(session, offset=1 << 20)
        self.assertRefused(session.attach(opened.image, 1, address, 1 << 20, 0, self.uffd()), errno.EINVAL)

    def test_mapping_that_is_shorter(self):
        session = self.peer()
        opened, address = self.mapped(session, length=PAGE * 4)
        self.assertLess(session.attach(opened.image, 1, address, 1 << 20, 0, self.uffd()).status, 0)

    def test_overlapping_views(self):
        session = self.peer()
        view = View(session, "disk", length=1 << 20)
        answer = session.attach(view.opened.image, 2, view.address + PAGE, PAGE * 8, PAGE, self.uffd())
        self.assertLess(answer.status, 0, answer)
        answer = session.attach(view.opened.image, 3, view.address, 1 << 20, 0, view.uffd)
        self.assertLess(answer.status, 0, answer)
        self.assertEqual(view.read(PAGE * 3, PAGE), peer.page_bytes(3))
        self.assertEqual(view.close().status, 0)

    def test_one_number_for_two_views(self):
        session = self.peer()
        view = View(session, "disk", length=1 << 20)
        opened, address = self.mapped(session)
        self.assertRefused(session.attach(opened.image, 1, address, 1 << 20, 0, self.uffd()), errno.EEXIST, "already")
        self.assertRefused(session.attach(opened.image, 0, address, 1 << 20, 0, self.uffd()), errno.EINVAL)
        self.assertEqual(view.close().status, 0)

    def test_views_of_others(self):
        """Numbers are of a session: there is nothing to guess."""
        view = View(self.peer(), "disk", view=7, length=1 << 20)
        session = self.peer()
        self.assertRefused(session.detach(7), errno.ENOENT)
        self.assertRefused(session.ask(RECORD, struct.pack("=IIIIQ", 0, 7, 0, 0, 0)), errno.ENOENT)
        self.assertRefused(session.ask(UNPIN, struct.pack("=Q", 1)), errno.ENOENT)
        self.assertRefused(session.ask(CANCEL, struct.pack("=Q", 1)), errno.ENOENT)
        self.assertEqual(view.read(0, PAGE), peer.page_bytes(0))
        self.assertEqual(view.close().status, 0)

    def test_detach_twice(self):
        session = self.peer()
        view = View(session, "disk", length=1 << 20)
        self.assertEqual(view.close().status, 0)
        self.assertRefused(session.detach(1), errno.ENOENT)

    def test_unknown_flags(self):
        session = self.peer()
        opened, address = self.mapped(session)
        self.assertRefused(session.attach(opened.image, 1, address, 1 << 20, 0, self.uffd(), flags=6), errno.EINVAL)

    # ---- images and ranges ----

    def test_unknown_images(self):
        session = self.peer()
        self.assertRefused(session.open("nothing"), errno.ENOENT, "nothing")
        for image in (0, 99, 1 << 31):
            self.assertRefused(session.range(PREFETCH, image, 0, PAGE, 1), errno.ENOENT, "no image")

    def test_images_of_others(self):
        done = self.as_nobody("""
        answer = session.open("secret")
        assert answer.status == -2, answer
        listed = session.ask(peer.LIST, struct.pack("=II", 0, 0))
        assert struct.unpack_from("=I", listed.body)[0] == 2, listed
        """)
        self.assertEqual(done, "")

    def test_huge_and_crooked_ranges(self):
        session = self.peer()
        image = session.open("disk").image
        for kind in (PREFETCH, PIN, INVALIDATE, RESIDENCY):
            for offset, length in ((0, 1 << 62), (1 << 62, 1 << 62), ((1 << 64) - PAGE, PAGE * 2), (0, 0), (1, PAGE),
                                   (0, 100), (MEGABYTES << 20, PAGE)):
                self.assertRefused(session.range(kind, image, offset, length), errno.EINVAL)
        self.assertGoesOn(session)

    def test_prefetch_of_everything_many_times(self):
        session = self.peer()
        image = session.open("disk").image
        started = 0
        for cookie in range(30):
            answer = session.range(PREFETCH, image, 0, MEGABYTES << 20, cookie)
            if answer.status == 0:
                started += 1
            else:
                self.assertRefused(answer, errno.EAGAIN, "prefetches")
        self.assertLess(started, 30)
        for _ in range(started):
            session.wait_event(EVENT_PREFETCH)

    def test_prefetch_under_a_cookie_in_use(self):
        session = self.peer()
        image = session.open("disk").image
        requests = [session.start(PREFETCH, struct.pack("=IIQQQ", image, 0, 0, MEGABYTES << 20, 5)) for _ in range(3)]
        answers = [session.wait(request).status for request in requests]
        self.assertEqual(answers[0], 0)
        self.assertTrue(set(answers[1:]) <= {0, -errno.EEXIST}, answers)

    # ---- forbidden, and too much ----

    def as_nobody(self, code):
        """Runs code as a user who may use the daemon, and is no admin; what it says on stderr."""
        if os.getuid() != 0:
            self.skipTest("only root can become somebody else")
        text = "import os, struct, sys\nsys.path.insert(0, sys.argv[2])\nimport peer\n" \
               "os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n" \
               "session = peer.Peer(sys.argv[1])\n" + "\n".join(line[8:] for line in code.splitlines())
        done = subprocess.run([sys.executable, "-c", text, self.daemon.path, os.path.dirname(os.path.abspath(__file__))],
                              capture_output=True, text=True, timeout=60, check=False)
        return done.stderr

    def test_forbidden_operations(self):
        done = self.as_nobody("""
        image = session.open("disk").image
        answer = session.range(peer.INVALIDATE, image, 0, 4096)
        assert answer.status == -1 and "admins" in answer.text, answer
        answer = session.ask(peer.BUDGET, peer.name("main") + struct.pack("=Q", 1 << 20))
        assert answer.status == -1 and "admins" in answer.text, answer
        answer = session.range(peer.PIN, image, 0, 8 << 20, 1)
        assert answer.status == -122 and "pinned" in answer.text, answer
        """)
        self.assertEqual(done, "")

    def claim(self, session, address, length=4096):
        return session.ask(peer.CLAIM, struct.pack("=QQ", address, length))

    def test_claims(self):
        """A child's userfaultfd is for processes of its user that know what it has watched, and for one of them."""
        if os.getuid() != 0 or not peer.offered() & peer.POISON:
            self.skipTest("following forks takes UFFDIO_POISON, and EVENT_FORK takes CAP_SYS_PTRACE")
        session = self.peer()
        for address, length in ((0, 0), (1 << 63, 1 << 63), (4096, 1 << 32)):
            self.assertEqual(self.claim(session, address, length).status, -errno.EINVAL)
        opened = session.open("disk")
        address = peer.map_private(opened.fd, 1 << 20)
        uffd = peer.userfaultfd(peer.FEATURES | peer.EVENT_FORK | peer.POISON)
        self.assertEqual(session.attach(opened.image, 1, address, 1 << 20, 0, uffd).status, 0)
        last = address + (1 << 20) - peer.PAGE
        self.assertEqual(self.claim(session, last).status, -errno.ENOENT)  # it is no child's
        gate, opener = os.pipe()
        child = os.fork()
        if not child:
            os.close(opener)
            os.read(gate, 1)
            os._exit(0)
        self.assertEqual(session.ask(HELLO, struct.pack("=II", peer.VERSION, 1) + name("x")).status, 0)  # it is known
        self.assertEqual(self.as_nobody(f"""
        answer = session.ask(peer.CLAIM, struct.pack("=QQ", {last}, 4096))
        assert answer.status == -2, answer
        """), "")
        for nearly in (address, last - peer.PAGE, last + peer.PAGE, last - 1):
            answer = self.claim(session, nearly)
            self.assertEqual((answer.status, answer.fds), (-errno.ENOENT, []))
        found = self.claim(session, last).fds
        with open(f"/proc/self/fdinfo/{found[0]}", encoding="ascii") as file:
            self.assertIn("pending:", file.read())
        self.assertFalse(os.path.sameopenfile(found[0], uffd))
        self.assertEqual(self.claim(session, last).status, -errno.ENOENT)  # somebody has it
        os.close(opener)
        os.waitpid(child, 0)
        os.close(found[0])
        session.detach(1)
        peer.unmap(uffd, address, 1 << 20)

    def test_end(self):
        """It cannot be written, outlives a worker, and says when the daemon has gone."""
        daemon = peer.Daemon(COMMAND, {"disk": os.path.join(self.folder.name, "image-1")})
        self.addCleanup(daemon.close)
        with peer.Peer(daemon.path) as session:
            end, = session.ask(peer.END).fds
            self.assertRaises(OSError, os.write, end, b"x")
            daemon.kill_worker()
            session.wait_event(peer.EVENT_RESTARTED)
            self.assertRaises(BlockingIOError, os.read, end, 1)
        daemon.stop()
        self.assertEqual(os.read(end, 1), b"")
        os.close(end)

    def test_strangers(self):
        if os.getuid() != 0:
            self.skipTest("only root can become somebody else")
        child = os.fork()
        if not child:
            code = 1
            try:
                os.setresuid(54321, 54321, 54321)
                session = Peer(self.daemon.path, greet=False)
                answer = session.receive()
                code = 0 if answer.kind == EVENT_ENDED and answer.status == -errno.EACCES and "54321" in answer.text else 2
            finally:
                os._exit(code)
        self.assertEqual(os.waitpid(child, 0)[1], 0)

    def test_writable_descriptor(self):
        """What peers get can be neither written nor reopened for it, by no other user."""
        session = self.peer()
        opened = session.open("disk")
        self.assertEqual(fcntl.fcntl(opened.fd, fcntl.F_GETFL) & os.O_ACCMODE, os.O_RDONLY)
        with self.assertRaises(OSError):
            os.write(opened.fd, b"x")
        with self.assertRaises(OSError):
            os.ftruncate(opened.fd, 0)
        self.assertLess(peer.libc.fallocate(opened.fd, 3, ctypes.c_long(0), ctypes.c_long(PAGE)), 0)
        os.close(opened.fd)
        self.assertEqual(self.as_nobody("""
        fd = session.open("disk").fd
        try:
            os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
        except PermissionError:
            pass
        else:
            raise SystemExit("reopened for writing")
        """), "")

    def test_more_views_than_allowed(self):
        session = self.peer()
        views = [View(session, "disk", view=n + 1, length=1 << 20) for n in range(LIMITS["views"])]
        opened, address = self.mapped(session)
        self.assertRefused(session.attach(opened.image, 99, address, 1 << 20, 0, self.uffd()), errno.EDQUOT, "views")
        for view in views:
            self.assertEqual(view.close().status, 0)

    def test_more_bytes_than_allowed(self):
        session = self.peer()
        views = [View(session, "disk", view=n + 1) for n in range(4)]
        opened, address = self.mapped(session)
        self.assertRefused(session.attach(opened.image, 99, address, 1 << 20, 0, self.uffd()), errno.EDQUOT, "bytes")
        for view in views:
            self.assertEqual(view.close().status, 0)

    def test_flood_of_requests(self):
        """Nobody is served slower than the rate allows, and the one who floods waits."""
        session = self.peer()
        begin, answers, number = time.monotonic(), 0, 0
        session.socket.setblocking(False)
        while time.monotonic() - begin < 1:
            try:
                session.send(message(LIST, number % 1000 + 1, b"\0" * 8))
                number += 1
            except BlockingIOError:
                time.sleep(0.0001)
            try:
                while session.receive():
                    answers += 1
            except BlockingIOError:
                pass
        seconds = time.monotonic() - begin
        # What it had saved up, what it was given meanwhile, and a little.
        self.assertLess(answers, LIMITS["requests_per_second"] * (1 + seconds) * 1.1 + 10)
        self.assertGreater(answers, LIMITS["requests_per_second"] / 2)
        with Peer(self.daemon.path) as other:
            begin = time.monotonic()
            self.assertGoesOn(other)
            self.assertLess(time.monotonic() - begin, 5)

    def test_flood_of_connections(self):
        crowd = []
        ended = 0
        for _ in range(LIMITS["sessions_per_user"] + 20):
            session = self.peer(greet=False)
            crowd.append(session)
            try:
                session.send(message(HELLO, 1, struct.pack("=II", 1, 0) + name("crowd")))
            except Gone:
                pass
            answer = session.receive()
            if answer.kind == EVENT_ENDED:
                self.assertIn("sessions", answer.text)
                ended += 1
        self.assertGreaterEqual(ended, 20)
        for session in crowd:
            session.close()
        time.sleep(0.2)

    def test_answers_never_read(self):
        session = self.peer()
        session.socket.setblocking(False)
        sent = 0
        try:
            while sent < 100000:
                session.send(message(OPEN, sent + 1, name("disk")))
                sent += 1
        except BlockingIOError:
            pass
        self.assertLess(sent, 5000)
        time.sleep(0.3)
        with Peer(self.daemon.path) as other:
            self.assertEqual(other.open("disk").status, 0)

    # ---- death ----

    def die(self, moment):
        child = os.fork()
        if not child:
            try:
                moment()
            finally:
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)

    def test_dying_in_the_middle_of_attach(self):
        def after_open():
            Peer(self.daemon.path).open("disk")

        def while_attaching():
            session = Peer(self.daemon.path)
            opened = session.open("disk")
            address = map_private(opened.fd, 1 << 20)
            session.start(ATTACH, struct.pack("=IIIIQQQ", opened.image, 1, 0, 0, address, 1 << 20, 0), (userfaultfd(),))

        def with_a_view():
            View(Peer(self.daemon.path), "disk").read(PAGE * 9, 1)

        def with_prefetch_and_pin():
            session = Peer(self.daemon.path)
            image = session.open("disk").image
            session.start(PREFETCH, struct.pack("=IIQQQ", image, 0, 0, MEGABYTES << 20, 1))
            session.start(PIN, struct.pack("=IIQQQ", image, 0, 0, 1 << 20, 1))

        for _ in range(5):
            for moment in (after_open, while_attaching, with_a_view, with_prefetch_and_pin):
                self.die(moment)
        until = time.monotonic() + 10
        while time.monotonic() < until:
            state = self.state()
            if state["sessions"] == 2 and len(state["views"]) <= 1:
                break
            time.sleep(0.05)
        self.assertEqual(state["sessions"], 2, state)

    def state(self):
        with Peer(self.daemon.path) as session:
            return json.loads(session.stats().data)

    def test_unmapped_under_the_daemon(self):
        """munmap of a part, and of all, while another thread of the consumer faults on it."""
        session = self.peer()
        view = View(session, "disk", length=4 << 20)
        chance = random.Random(5)

        def touch():
            for _ in range(300):
                view.read(chance.randrange(512) * PAGE, 8)

        thread = threading.Thread(target=touch)
        thread.start()
        peer.libc.munmap(view.address + (2 << 20), 2 << 20)
        thread.join(20)
        self.assertFalse(thread.is_alive())
        self.assertEqual(view.read(0, PAGE), peer.page_bytes(0))
        peer.libc.munmap(view.address, 2 << 20)
        self.assertIn(session.detach(1).status, (0, -errno.ENOENT))
        os.close(view.uffd)

    def test_session_closed_with_views(self):
        """The views go with the session; the memory stays, untouched, the consumer's own problem."""
        session = self.peer()
        view = View(session, "disk", length=1 << 20)
        self.assertEqual(view.read(0, PAGE), peer.page_bytes(0))
        session.close()
        until = time.monotonic() + 10
        while self.state()["sessions"] != 2 and time.monotonic() < until:
            time.sleep(0.05)
        self.assertLessEqual(len(self.state()["views"]), 1)
        peer.unmap(view.uffd, view.address, view.length)


if __name__ == "__main__":
    unittest.main(verbosity=2, warnings="ignore")
