#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What a client may ask of the real daemon, and gets: COMMAND OPERATE. The store and the statistics say whether it did."""
import json
import os
import pathlib
import signal
import struct
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "daemon"))
import peer  # noqa: E402
from peer import PAGE, Peer  # noqa: E402

OPERATE = sys.argv.pop(2)
COMMAND = sys.argv.pop(1)
MIB = 1 << 20
IMAGES = 40
BUDGET = 4 * MIB


class Client:
    def __init__(self, path):
        self.process = subprocess.Popen([OPERATE, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, what, name="-", offset=0, length=0):
        self.process.stdin.write(f"{what} {name} {offset} {length}\n")
        self.process.stdin.flush()
        self.line = self.process.stdout.readline()
        *self.words, result, self.text = self.line.split(" ", self.line.count(" ") if what == "images" else 1)
        return int(result)

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        return self.process.wait(30)


class Operations(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="minnow-operations-")
        self.addCleanup(self.folder.cleanup)
        self.image = os.path.join(self.folder.name, "image")
        self.fill(b"\1")
        images = [{"name": f"image-{n}", "pool": "other", "uri": f"file://{self.image}"} for n in range(IMAGES)]
        config = {"pools": [{"name": "main", "budget": BUDGET}, {"name": "other", "budget": "8M"}],
                  "admins": {"users": [os.getuid()]},
                  "images": images + [{"name": "disk", "pool": "main", "uri": f"file://{self.image}", "read_around": 0}]}
        self.daemon = peer.Daemon(COMMAND, {}, config=json.dumps(config))
        self.addCleanup(self.daemon.close)
        self.client = Client(self.daemon.path)
        self.addCleanup(self.client.process.kill)

    def tearDown(self):
        self.assertEqual(self.client.close(), 0, self.daemon.read_log())

    def fill(self, byte):
        """8 MiB of it."""
        with open(self.image, "r+b" if os.path.exists(self.image) else "wb") as file:
            file.write(byte * (8 * MIB))

    def ask(self, what, *arguments):
        result = self.client.ask(what, *arguments)
        self.assertGreaterEqual(result, 0, f"{what}: {self.client.line} {self.daemon.read_log()}")
        return result

    def pool(self):
        with Peer(self.daemon.path) as session:
            return next(pool for pool in json.loads(session.stats().data)["pools"] if pool["name"] == "main")

    def test_list(self):
        """More images than fit into one answer, each once."""
        self.assertEqual(self.ask("images"), IMAGES + 1)
        self.assertEqual(sorted(self.client.words), sorted(["disk"] + [f"image-{n}" for n in range(IMAGES)]))

    def test_invalidate(self):
        """What the store has become is what is read from then on, in the range alone."""
        self.ask("map", "disk")
        self.assertEqual(self.ask("touch", "-", 0, 2 * MIB), 512)
        self.fill(b"\2")
        self.assertEqual(self.ask("touch", "-", 0, 2 * MIB), 512)
        self.ask("invalidate", "disk", MIB, MIB)
        self.assertEqual(self.ask("touch", "-", MIB, MIB), 512)
        self.assertEqual(self.ask("touch", "-", 0, MIB), 256)
        self.ask("unmap")

    def crowd_out(self):
        """Everything that may be evicted is."""
        self.ask("map", "disk")
        for _ in range(2):
            self.ask("touch", "-", MIB, 7 * MIB)
        self.ask("unmap")

    def test_pin(self):
        self.ask("pin", "disk", 0, MIB)
        self.crowd_out()
        self.assertEqual(self.ask("residency", "disk", 0, MIB), 256)
        self.ask("unpin", "disk", 0, MIB)
        self.crowd_out()
        self.assertLess(self.ask("residency", "disk", 0, MIB), 256)
        self.assertLess(self.client.ask("unpin", "disk", 0, MIB), 0)

    def survive(self, disturb):
        self.ask("pin", "disk", 0, MIB)
        for _ in range(2):
            worker = self.daemon.worker()
            disturb()
            self.daemon.wait_worker(worker, asked=False)  # nor is the last one asked for anything before it is killed
        self.daemon.wait_ready()
        self.crowd_out()
        self.assertEqual(self.ask("residency", "disk", 0, MIB), 256)
        self.ask("unpin", "disk", 0, MIB)
        self.crowd_out()
        self.assertLess(self.ask("residency", "disk", 0, MIB), 256)

    def test_pins_survive_kills(self):
        self.survive(self.daemon.kill_worker)

    def test_pins_survive_handovers(self):
        self.survive(lambda: (self.daemon.wait_ready(), self.daemon.process.send_signal(signal.SIGHUP)))

    def test_budget(self):
        self.crowd_out()
        self.assertGreater(self.pool()["resident_bytes"], 2 * MIB)
        self.ask("budget", "main", 0, 2 * MIB)
        self.assertEqual(self.pool()["budget_bytes"], 2 * MIB)
        self.crowd_out()
        self.assertLessEqual(self.pool()["resident_bytes"], 2 * MIB)
        self.ask("budget", "main", 0, 16 * MIB)
        self.ask("prefetch", "disk", 0, 8 * MIB)
        self.assertEqual(self.ask("residency", "disk", 0, 8 * MIB), 2048)
        self.assertLess(self.client.ask("budget", "none", 0, MIB), 0)
        self.assertIn("none", self.client.text)

    def test_cancel(self):
        """A prefetch that has to wait is ended by whoever began it; one that has ended is not there any more."""
        with open(self.image, "r+b") as file:
            file.truncate(2 << 30)
        with peer.Daemon(COMMAND, {"huge": self.image}, budget="3G") as daemon, Peer(daemon.path) as session:
            image = session.open("huge").image
            self.assertEqual(session.range(peer.PREFETCH, image, 0, 2 << 30, 7).status, 0)
            self.assertEqual(session.ask(peer.CANCEL, struct.pack("=Q", 7)).status, 0)
            event = session.wait_event(peer.EVENT_PREFETCH)
            result, number, cookie, _ = struct.unpack("=iIQQ", event.body)
            self.assertEqual((result, number, cookie), (-125, image, 7))
            self.assertEqual(session.ask(peer.CANCEL, struct.pack("=Q", 7)).status, -2)
            resident = json.loads(session.stats().data)["pools"][0]["resident_bytes"]
            self.assertLess(resident, 2 << 30)


if __name__ == "__main__":
    unittest.main(verbosity=2, warnings="ignore")
