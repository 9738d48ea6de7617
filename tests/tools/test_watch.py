#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""minnow stat and top on a daemon that works: what they say is what was done. DAEMON-FOLDER METRICS-FOLDER COMMAND."""
import json
import os
import random
import re
import shutil
import struct
import sys
import tempfile
import unittest

sys.path[:0] = [sys.argv.pop(1), sys.argv.pop(1)]

import command  # noqa: E402
import exposition  # noqa: E402
import peer  # noqa: E402
from test_top import Screen  # noqa: E402

MEGABYTES = 8
PAGES = MEGABYTES << 8
MAP = re.compile(r"MAP of (\S+): a cell is ([0-9.]+) (\w+)")


def map_of(text):
    """The signs of the map on a screen."""
    lines = text.split("\n")
    start = next(i for i, line in enumerate(lines) if line.startswith("MAP of"))
    return "".join(line.ljust(80) for line in lines[start + 1:] if "q quit" not in line).rstrip(" ")


class Watch(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="minnow-watch-")
        self.addCleanup(shutil.rmtree, self.folder)
        self.image = peer.make_image(self.folder, MEGABYTES)
        self.start()

    def start(self):
        # A page that is touched brings itself alone: what is in memory can be told from what was touched.
        self.daemon = peer.Daemon(command.COMMAND, {"guest": self.image}, ["--read-around", "0"])
        self.addCleanup(self.daemon.close)
        self.peer = peer.Peer(self.daemon.path)
        self.addCleanup(self.peer.close)

    def stat(self, *arguments):
        done = command.run("stat", "--socket", self.daemon.path, *arguments)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout

    def state(self):
        return json.loads(self.stat("--json"))

    def read(self, view, pages):
        for page in pages:
            self.assertEqual(view.read(page * 4096, 4096), peer.page_bytes(page))

    def test_stat_says_what_was_done(self):
        view = peer.View(self.peer, "guest")
        touched = [page * 37 % PAGES for page in range(50)]
        self.read(view, touched)
        state = self.state()
        (pool,), (image,), (seen,) = state["pools"], state["images"], state["views"]
        self.assertEqual((pool["name"], pool["backing"], pool["budget_bytes"]), ("main", "shmem", 64 << 20))
        self.assertEqual((image["name"], image["size_bytes"], image["page_bytes"], image["views"]),
                         ("guest", MEGABYTES << 20, 4096, 1))
        self.assertGreaterEqual(image["faults_missing"] + image["faults_minor"], 50)
        self.assertGreaterEqual(image["fill_bytes"], 50 * 4096)
        self.assertEqual(image["resident_bytes"], pool["resident_bytes"])
        self.assertEqual((seen["image"], seen["pid"], seen["id"], seen["address"], seen["length"], seen["writable"]),
                         ("guest", os.getpid(), 1, view.address, MEGABYTES << 20, False))
        self.assertGreaterEqual(pool["nodes"][0]["total"]["count"], 50)
        self.assertGreaterEqual(sum(node["fault_threads"] for node in pool["nodes"]), 1)
        self.assertTrue(all(0 < node["memory_free_bytes"] <= node["memory_bytes"] for node in pool["nodes"]))
        families = exposition.parse(self.stat("--prometheus"))
        labels = {"image": "guest", "pool": "main"}
        for name in ("fills", "fill_bytes", "faults_missing", "faults_minor"):
            name_total = f"mnw_image_{name}_total"
            self.assertEqual(families[name_total].value(name_total, labels), image[name])
        self.assertEqual(families["mnw_node_fault_threads"].value("mnw_node_fault_threads", {"pool": "main", "node": "0"}),
                         pool["nodes"][0]["fault_threads"])
        self.assertEqual(families["mnw_image_views"].value("mnw_image_views", labels), 1)
        tables = self.stat("--seconds", "0.2")
        self.assertRegex(tables, r"\nguest +main +8\.0 MiB ")
        self.assertIn(f"{view.address:#x}", tables)
        self.assertEqual(view.close().status, 0)
        self.assertEqual(self.state()["views"], [])

    def await_map(self, screen, wanted):
        """Until the map shows these pages, and no others, as resident."""
        def shown(text):
            found = MAP.search(text)
            if not found:
                return False
            bytes_per_cell = float(found.group(2)) * {"KiB": 1024, "MiB": 1 << 20, "bytes": 1}[found.group(3)]
            pages = round(bytes_per_cell / 4096)
            cells = [[page in wanted for page in range(at, min(at + pages, PAGES))] for at in range(0, PAGES, pages)]
            signs = "".join("." if not any(cell) else "#" if all(cell) else "?" for cell in cells)
            return re.fullmatch(signs.replace(".", r"\.").replace("?", "[:+*]"), map_of(text)) is not None
        return screen.wait(shown, "the map of what is resident")

    def test_top_maps_what_is_resident(self):
        if not shutil.which("tmux"):
            self.skipTest("no tmux here")
        opened = self.peer.open("guest")
        os.close(opened.fd)
        screen = Screen(self.folder, "--socket", self.daemon.path, "--interval", "0.2", "--ascii")
        self.addCleanup(screen.close)
        self.await_map(screen, set())
        wanted = set()
        for first, count in ((0, PAGES // 2), (PAGES - 3, 3), (PAGES - 500, 100)):
            wanted |= set(range(first, first + count))
            self.peer.range(peer.PREFETCH, opened.image, first * 4096, count * 4096, first + 1)
            self.peer.wait_event(peer.EVENT_PREFETCH)
        self.await_map(screen, wanted)
        screen.tmux("resize-window", "-x", "80", "-y", "50")
        self.await_map(screen, wanted)
        self.daemon.stop()
        screen.wait(lambda text: "q quit" not in text, "that the daemon is gone")
        screen.press("q")
        self.assertEqual(screen.end(), 0)

    def test_working_set(self):
        """Recorded by one daemon, replayed by the next, and just those pages are resident."""
        touched = random.Random(1).sample(range(PAGES), 300)  # in no order that would be read ahead
        view = peer.View(self.peer, "guest")

        def working_set(kind, action=0, cookie=0):
            return self.peer.ask(kind, struct.pack("=IIIIQ", view.opened.image if kind == peer.REPLAY else 0,
                                                   0 if kind == peer.REPLAY else 1, action, 0, cookie))

        answer = working_set(peer.RECORD)
        self.assertEqual(answer.status, 0, answer)
        self.read(view, touched)
        self.assertTrue(self.state()["views"][0]["recording"])
        answer = working_set(peer.RECORD, 1)
        self.assertEqual(answer.status, 0, answer)
        with open(self.image + ".mws", "rb") as file:
            header = struct.unpack("<8sIIQQQQQQ", file.read(64))
        self.assertEqual(header[:4], (b"MINNOWWS", 1, 4096, MEGABYTES << 20))
        self.assertEqual(header[4], os.stat(self.image).st_mtime_ns)
        self.assertEqual(header[6], 300)
        view.close()
        self.daemon.close()
        self.start()
        view = peer.View(self.peer, "guest")
        self.assertEqual(working_set(peer.REPLAY, cookie=5).status, 0)
        self.peer.wait_event(peer.EVENT_PREFETCH)
        before = self.state()["images"][0]
        self.assertEqual(before["resident_bytes"], 300 * 4096)
        self.read(view, touched)
        after = self.state()["images"][0]
        self.assertEqual((after["fills"], after["faults_missing"]), (before["fills"], 0))
        self.assertGreater(after["faults_minor"], 0)
        view.close()


if __name__ == "__main__":
    os.environ.pop("TMUX", None)
    command.main()
