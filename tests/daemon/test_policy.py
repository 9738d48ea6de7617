#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Who may have how much of the daemon: COMMAND. Limits on faults are a peer's, however many views and pools it uses."""
import ctypes
import fcntl
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import peer
from peer import PAGE, Peer, View

COMMAND = sys.argv.pop(1)
MEGABYTES = 8
RATE = 500
GROUP = 7654
BLOCK = 64 << 10  # what one fault may map at once
TRIES = 3
SLOWNESS = int(os.environ.get("MINNOW_TEST_SLOWNESS", "1"))


class Flood:
    """A peer with many views, a thread in each that touches blocks in no order that is read ahead."""

    def __init__(self, path, images, views):
        self.session = Peer(path)
        self.views = [View(self.session, images[n % len(images)], view=n + 1) for n in range(views)]
        self.touched, self.stop = [0] * views, False
        self.threads = [threading.Thread(target=self.touch, args=(n,)) for n in range(views)]

    def touch(self, number):
        view, byte = self.views[number], ctypes.create_string_buffer(16)
        blocks = view.length // BLOCK
        for block in range(blocks):
            if self.stop:
                return
            at = block * 37 % blocks * BLOCK
            peer.libc.memcpy(byte, ctypes.c_void_p(view.address + at), 16)  # others run meanwhile: no lock is held
            assert byte.raw == peer.page_bytes(at // PAGE)[:16]
            self.touched[number] += 1

    def start(self):
        for thread in self.threads:
            thread.start()

    def end(self):
        self.stop = True
        for thread in self.threads:
            thread.join(30)
            assert not thread.is_alive()
        for view in self.views:
            assert view.close().status == 0
        self.session.close()


class Faults(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="minnow-policy-")
        self.addCleanup(self.folder.cleanup)
        uri = "file://" + peer.make_image(self.folder.name, MEGABYTES)
        config = {"pools": [{"name": pool, "budget": "16M"} for pool in "ab"], "limits": {"faults_per_second": RATE},
                  "images": [{"name": pool, "pool": pool, "uri": uri, "read_around": 0} for pool in "ab"]}
        self.daemon = peer.Daemon(COMMAND, {}, config=json.dumps(config))
        self.addCleanup(self.daemon.close)

    def warm(self):
        """All is in memory: nothing but the limit keeps anybody waiting."""
        with Peer(self.daemon.path) as session:
            for image in "ab":
                opened = session.open(image)
                self.assertEqual(session.range(peer.PREFETCH, opened.image, 0, opened.size, 1).status, 0)
                session.wait_event(peer.EVENT_PREFETCH)
                os.close(opened.fd)

    def flood(self):
        """What share of their limit 16 views get in a second, and how long another peer waits meanwhile for 100 faults."""
        flood = Flood(self.daemon.path, "ab", 16)
        with Peer(self.daemon.path) as session:
            view = View(session, "a")
            start = time.monotonic()
            flood.start()
            begin = time.monotonic()
            for n in range(100):
                block = n * 37 % 128
                self.assertEqual(view.read(block * BLOCK, PAGE), peer.page_bytes(block * BLOCK // PAGE))
            waited = time.monotonic() - begin
            time.sleep(max(0, begin + 1 - time.monotonic()))
            touched, seconds = sum(flood.touched), time.monotonic() - start
            self.assertEqual(view.close().status, 0)
        flood.end()
        return touched / (RATE * (seconds + 0.1)), waited  # the tenth was saved up

    def check(self):
        """Nobody ever has more than the limit. Having it all takes a CPU, too, which on a busy machine is not always there."""
        for _ in range(TRIES):
            share, waited = self.flood()
            print(f"of its limit the flood got {share:.2f}; 100 faults of another took {waited * 1e3:.0f} ms", file=sys.stderr)
            self.assertLess(share, 1.3)
            if share > 0.5 / SLOWNESS and waited < 0.6 * SLOWNESS:  # 0.1 s by its own limit, over 1 s by one of all
                return
        self.fail(f"in none of {TRIES} tries did both have most of what is theirs")

    def test_flood_of_faults(self):
        """Many views, in two pools, are one peer, also when another worker has taken them over."""
        self.warm()
        self.check()
        worker = self.daemon.kill_worker()
        self.daemon.wait_worker(worker)
        self.check()


class Sessions(unittest.TestCase):
    """Who may come, what they get, and how long they may keep the daemon waiting."""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="minnow-policy-")
        self.addCleanup(self.folder.cleanup)
        self.uri = "file://" + peer.make_image(self.folder.name, 4)

    def serve(self, limits=None):
        config = {"pools": [{"name": "main", "budget": "16M"}, {"name": "graded", "backing": "graded", "budget": "16M"}],
                  "access": {"users": [0], "groups": [GROUP]},
                  "limits": limits or {},
                  "images": [{"name": "disk", "pool": "main", "uri": self.uri},
                             {"name": "graded", "pool": "graded", "uri": self.uri},
                             {"name": "grouped", "pool": "main", "uri": self.uri, "access": {"groups": [GROUP + 1]}}]}
        self.daemon = peer.Daemon(COMMAND, {}, config=json.dumps(config))
        self.addCleanup(self.daemon.close)

    def as_user(self, group, groups, code):
        """Runs code as a user who has nothing but these groups; what it says on stderr."""
        if os.getuid() != 0:
            self.skipTest("only root can become somebody else")
        text = "import os, sys\nsys.path.insert(0, sys.argv[2])\nimport peer\n" \
               f"os.setgroups({groups}); os.setresgid({group}, {group}, {group}); os.setresuid(54321, 54321, 54321)\n"
        done = subprocess.run([sys.executable, "-c", text + code, self.daemon.path,
                               os.path.dirname(os.path.abspath(__file__))],
                              capture_output=True, text=True, timeout=60, check=False)
        return done.stderr

    def test_groups(self):
        """Access by a peer's own group, by one of the others it is in, and not by any that it is not in."""
        self.serve()
        may = "answer = peer.Peer(sys.argv[1]).open('disk')\nassert answer.status == 0, answer\n"
        may_not = "answer = peer.Peer(sys.argv[1], greet=False).receive()\n" \
                  "assert answer.kind == peer.EVENT_ENDED and answer.status == -13, answer\n"
        self.assertEqual(self.as_user(GROUP, [], may), "")
        self.assertEqual(self.as_user(7, [8, GROUP], may), "")
        self.assertEqual(self.as_user(7, [8, GROUP + 2], may_not), "")

    def test_groups_of_an_image(self):
        self.serve()
        both = "session = peer.Peer(sys.argv[1])\n" \
               "found = [session.open(name).status for name in ('disk', 'grouped')]\nassert found == {}, found\n"
        self.assertEqual(self.as_user(GROUP, [], both.format([0, -2])), "")
        self.assertEqual(self.as_user(GROUP + 1, [], both.format([-2, 0])), "")
        self.assertEqual(self.as_user(7, [GROUP, GROUP + 1], both.format([0, 0])), "")

    def test_seals(self):
        """The size of what a peer is given cannot be changed by anybody."""
        self.serve()
        with open("/sys/kernel/mm/transparent_hugepage/shmem_enabled", encoding="ascii") as file:
            own_tmpfs = "[never]" in file.read()
        with Peer(self.daemon.path) as session:
            for name in ("disk", "graded"):
                fd = session.open(name).fd
                if name == "disk" or not own_tmpfs:
                    sealed = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
                    wanted = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
                    self.assertEqual(sealed & wanted, wanted, name)
                self.assertEqual(os.fstat(fd).st_mode & 0o177, 0)
                with self.assertRaises(OSError):
                    os.ftruncate(fd, 0)
                os.close(fd)

    def test_silence(self):
        """Who never says HELLO is told so and ended; who did may be silent."""
        self.serve({"hello_ms": 1000})
        other, begin = Peer(self.daemon.path), time.monotonic()
        with other, Peer(self.daemon.path, greet=False) as session:
            answer = session.receive()
            waited = time.monotonic() - begin
            self.assertEqual((answer.kind, answer.status), (peer.EVENT_ENDED, -110), answer)
            self.assertIn("HELLO", answer.text)
            with self.assertRaises(peer.Gone):
                session.receive()
            self.assertGreater(waited, 0.9)
            self.assertLess(waited, 10)
            time.sleep(0.4)
            self.assertEqual(other.open("disk").status, 0)

    def test_answers_never_taken(self):
        """Nothing can be told to such a peer: its session just ends, with what it has."""
        self.serve({"unread_ms": 3000})
        with Peer(self.daemon.path) as other, Peer(self.daemon.path) as session:
            view = View(session, "disk")
            session.socket.setblocking(False)
            begin = time.monotonic()
            try:
                for number in range(100000):
                    session.send(peer.message(peer.LIST, number + 1, bytes(8)))
            except BlockingIOError:
                pass

            def there():
                state = json.loads(other.stats().data)
                return state["sessions"], len(state["views"])
            self.assertEqual(there(), (2, 1))
            while there() != (1, 0) and time.monotonic() - begin < 20:
                time.sleep(0.02)
            ended = time.monotonic()
            self.assertEqual(there(), (1, 0))
            self.assertGreater(ended - begin, 2.9)
            peer.unmap(view.uffd, view.address, view.length)


if __name__ == "__main__":
    unittest.main(verbosity=2, warnings="ignore")
