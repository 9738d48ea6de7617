#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What is recorded is saved, whoever ends first: COMMAND. The consumer is this program again: COMMAND --consumer SOCKET."""
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest

import peer

COMMAND = sys.argv.pop(1)
START, SAVE, DROP = range(3)


def record(session, action, view=1):
    return session.ask(peer.RECORD, struct.pack("=IIIIQ", 0, view, action, 0, 0))


def touch(view, *pages):
    for page in pages:
        assert view.read(page * peer.PAGE, peer.PAGE) == peer.page_bytes(page), page


def consumer(path):
    """Records, touches three pages, and does not end by itself."""
    session = peer.Peer(path)
    view = peer.View(session, "disk")
    assert record(session, START).status == 0
    touch(view, 3, 9, 200)
    print("ready", flush=True)
    time.sleep(600)


class Recording(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="minnow-recording-")
        image = peer.make_image(self.folder.name, 4)
        self.set = image + ".mws"
        self.daemon = peer.Daemon(COMMAND, {"disk": image})

    def tearDown(self):
        self.daemon.close()
        self.folder.cleanup()

    def pages(self):
        """Those of the file, in the order of their first touch."""
        if not os.path.exists(self.set):
            return []
        with open(self.set, "rb") as file:
            data = file.read()
        found = []
        for entry, in struct.iter_unpack("<Q", data[64:]):
            first, count = entry & (1 << 40) - 1, (entry >> 40) + 1
            found += range(first, first + count)
        return found

    def wait_for(self, *pages):
        until = time.monotonic() + 20
        while self.pages() != list(pages) and time.monotonic() < until:
            time.sleep(0.01)
        self.assertEqual(self.pages(), list(pages), self.daemon.read_log())

    def recording_view(self, session):
        view = peer.View(session, "disk")
        self.assertEqual(record(session, START).status, 0)
        touch(view, 3)
        return view

    def test_consumer_is_killed(self):
        process = subprocess.Popen([sys.executable, __file__, COMMAND, "--consumer", self.daemon.path],
                                   stdout=subprocess.PIPE, text=True)
        self.assertEqual(process.stdout.readline(), "ready\n")
        self.assertEqual(self.pages(), [])
        process.kill()
        process.wait()
        process.stdout.close()
        self.wait_for(3, 9, 200)

    def test_daemon_is_stopped(self):
        session = peer.Peer(self.daemon.path)
        self.recording_view(session)
        self.daemon.stop()
        self.assertEqual(self.pages(), [3], self.daemon.read_log())
        session.close()

    def test_many_end_at_once(self):
        """None overwrites what another one has noted."""
        self.end_at_once(self.daemon, ["disk"])

    def test_many_end_at_once_with_one_file_for_two_images(self):
        folder, name = os.path.split(self.set)
        image = self.set.removesuffix(".mws")
        images = [{"name": "a", "uri": f"file://{image}"},
                  {"name": "b", "uri": f"file://{image}", "working_set": f"{folder}/../{os.path.basename(folder)}/{name}"}]
        daemon = peer.Daemon(COMMAND, {}, config=json.dumps({"pools": [{"name": "main", "budget": "8M"}], "images": images}))
        try:
            self.end_at_once(daemon, ["a", "b"])
        finally:
            daemon.close()

    def end_at_once(self, daemon, images):
        pages = range(10, 34)
        for turn in range(5):
            sessions = [peer.Peer(daemon.path) for _ in pages]
            for session, page in zip(sessions, pages):
                view = peer.View(session, images[page % len(images)])
                self.assertEqual(record(session, START).status, 0)
                touch(view, page)
            for session in sessions:
                session.close()
            until = time.monotonic() + 10
            while sorted(self.pages()) != list(pages) and time.monotonic() < until:
                time.sleep(0.01)
            self.assertEqual(sorted(self.pages()), list(pages), turn)
            os.unlink(self.set)

    def test_peers_leave_before_the_answer(self):
        """The loop finds out by answering, while it is busy with others: the view is closed once."""
        others = [peer.Peer(self.daemon.path) for _ in range(6)]
        until = time.monotonic() + 1
        turn = 0
        while time.monotonic() < until:
            turn += 1
            session = peer.Peer(self.daemon.path)
            self.recording_view(session)
            session.start(peer.RECORD, struct.pack("=IIIIQ", 0, 1, SAVE, 0, 0))
            asked = [(other, other.start(peer.STATS, struct.pack("=II", 0, 0))) for other in others]
            time.sleep(turn % 20 / 10000)
            session.close()
            for other, request in asked:
                os.close(other.wait(request).fds[0])
        for other in others:
            other.close()
        self.assertNotIn("the worker ended", self.daemon.read_log())

    def test_nothing_is_saved_that_was_dropped(self):
        with peer.Peer(self.daemon.path) as session:
            self.recording_view(session)
            self.assertEqual(record(session, DROP).status, 0)
        self.daemon.stop()
        self.assertEqual(self.pages(), [])

    def test_asked_for_again(self):
        """A peer asks again when it does not know whether it was heard."""
        with peer.Peer(self.daemon.path) as session:
            view = self.recording_view(session)
            self.assertEqual(record(session, START).status, 0)
            touch(view, 9)
            self.assertEqual(record(session, SAVE).status, 0)
            self.assertEqual(self.pages(), [3, 9])
            view.close()

    def test_worker_is_killed(self):
        """What it had noted is gone; the next one notes on, without being told."""
        with peer.Peer(self.daemon.path) as session:
            view = self.recording_view(session)
            self.daemon.kill_worker()
            session.wait_event(peer.EVENT_RESTARTED)
            touch(view, 200, 9)
            self.assertEqual(record(session, SAVE).status, 0)
            self.assertEqual(self.pages(), [200, 9])
            view.close()

    def test_worker_hands_over(self):
        with peer.Peer(self.daemon.path) as session:
            view = self.recording_view(session)
            self.daemon.process.send_signal(signal.SIGHUP)
            session.wait_event(peer.EVENT_RESTARTED)
            self.assertEqual(self.pages(), [3], self.daemon.read_log())
            touch(view, 200)
            session.close()
            self.wait_for(3, 200)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--consumer"]:
        consumer(sys.argv[2])
    unittest.main(argv=[sys.argv[0], *sys.argv[1:]], verbosity=2, warnings="ignore")
