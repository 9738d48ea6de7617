#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Who may have how much of the daemon: COMMAND. Limits on faults are a peer's, however many views and pools it uses."""
import ctypes
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
BLOCK = 64 << 10  # what one fault may map at once


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
        """What 16 views get in a second, and how long another peer waits meanwhile for 100 faults."""
        flood = Flood(self.daemon.path, "ab", 16)
        with Peer(self.daemon.path) as session:
            view = View(session, "a")
            flood.start()
            begin = time.monotonic()
            for n in range(100):
                block = n * 37 % 128
                self.assertEqual(view.read(block * BLOCK, PAGE), peer.page_bytes(block * BLOCK // PAGE))
            waited = time.monotonic() - begin
            time.sleep(max(0, begin + 1 - time.monotonic()))
            touched, seconds = sum(flood.touched), time.monotonic() - begin
            self.assertEqual(view.close().status, 0)
        flood.end()
        return touched / (RATE * (seconds + 0.1)), waited  # the tenth was saved up

    def check(self):
        share, waited = self.flood()
        print(f"of its limit the flood got {share:.2f}; 100 faults of another took {waited * 1e3:.0f} ms", file=sys.stderr)
        self.assertLess(share, 1.3)
        self.assertGreater(share, 0.5)
        self.assertLess(waited, 2)  # 0.1 s by its own limit

    def test_flood_of_faults(self):
        """Many views, in two pools, are one peer, also when another worker has taken them over."""
        self.warm()
        self.check()
        worker = self.daemon.kill_worker()
        until = time.monotonic() + 20
        while self.daemon.worker() in (None, worker) and time.monotonic() < until:
            time.sleep(0.01)
        self.daemon.wait_ready()
        self.check()


if __name__ == "__main__":
    unittest.main(verbosity=2, warnings="ignore")
