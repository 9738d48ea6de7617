#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What an operator does wrong costs nothing that is not his to lose: files, running daemons, waiting consumers. COMMAND."""
import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import peer
from peer import EVENT_DETACHED, EVENT_RESTARTED, PAGE, Peer, View

COMMAND = sys.argv.pop(1)
SANDBOX = [] if not peer.sanitized() else ["--no-sandbox"]
NO_PRELOAD = "the sanitizer's runtime would have to come before the preloaded library"


class Folder(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="minnow-mistakes-")
        self.addCleanup(self.folder.cleanup)
        os.chmod(self.folder.name, 0o755)
        self.image = peer.make_image(self.folder.name, 4)

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def write(self, name, text):
        with open(self.path(name), "w", encoding="utf-8") as file:
            file.write(text)
        return self.path(name)

    def serve(self, *arguments):
        budget = [] if "--budget" in arguments else ["--budget", "8M"]
        return subprocess.run([COMMAND, "serve", *budget, "--image", f"a={self.image}", *SANDBOX, *arguments],
                              capture_output=True, text=True, timeout=30, check=False)


class Places(Folder):
    """The daemon removes the socket that it made, and nothing else."""

    def refused(self, path):
        before = os.lstat(path)
        for arguments in ([], ["--alone"]):
            done = self.serve("--socket", path, *arguments)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn(f"binding the socket {path}", done.stderr)
            now = os.lstat(path)
            self.assertEqual((now.st_ino, now.st_mode, now.st_size), (before.st_ino, before.st_mode, before.st_size))
            self.assertFalse(os.path.exists(path + ".holder"))

    def test_regular_file(self):
        path = self.write("precious", "data\n")
        self.refused(path)
        with open(path, encoding="utf-8") as file:
            self.assertEqual(file.read(), "data\n")

    def test_directory(self):
        os.mkdir(self.path("folder"))
        self.refused(self.path("folder"))

    def test_socket_of_a_running_daemon(self):
        """Of one that has no holder, whose place at PATH.holder is free."""
        path = self.path("socket")
        process = subprocess.Popen([COMMAND, "serve", "--alone", "--budget", "8M", "--image", f"a={self.image}",
                                    *SANDBOX, "--socket", path])
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        until = time.monotonic() + 20
        while not os.path.exists(path):
            self.assertLess(time.monotonic(), until)
            time.sleep(0.01)
        time.sleep(0.1)
        with Peer(path) as session:
            self.refused(path)
            view = View(session, "a")
            self.assertEqual(view.read(PAGE, PAGE), peer.page_bytes(1))
            view.close()
        Peer(path).close()
        process.terminate()
        self.assertEqual(process.wait(20), 0)
        self.assertFalse(os.path.exists(path))

    def test_socket_that_took_its_place(self):
        daemon = peer.Daemon(COMMAND, {"a": self.image})
        self.addCleanup(daemon.close)
        os.unlink(daemon.path)
        with peer.socket.socket(peer.socket.AF_UNIX) as other:
            other.bind(daemon.path)
            self.assertEqual(daemon.stop(), 0)
            self.assertTrue(os.path.exists(daemon.path))

    def test_refused_start_leaves_nothing(self):
        for arguments in ([], ["--alone"]):
            done = self.serve("--socket", self.path("socket"), "--budget", "1", *arguments)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertEqual(sorted(os.listdir(self.folder.name)), ["image-1"])

    def test_killed_worker_at_the_end(self):
        """The holder cleans up after a worker that could not."""
        daemon = peer.Daemon(COMMAND, {"a": self.image})
        self.addCleanup(daemon.close)
        os.kill(daemon.worker(), signal.SIGSTOP)
        worker = daemon.worker()
        daemon.process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        os.kill(worker, signal.SIGKILL)
        daemon.process.wait(20)
        self.assertFalse(os.path.exists(daemon.path) or os.path.exists(daemon.path + ".holder"))


class Runs(Folder):
    """minnow run finds out before the program starts."""

    def run_wc(self, path, mapped):
        return subprocess.run([COMMAND, "run", "--socket", path, "--map", mapped, "--", "true"], capture_output=True,
                              text=True, timeout=30, check=False)

    @unittest.skipIf(peer.sanitized(), NO_PRELOAD)
    def test_a_moment_too_early(self):
        path = self.path("socket")
        daemon = subprocess.Popen(["sh", "-c", 'sleep 0.3; exec "$@"', "sh", COMMAND, "serve", "--budget", "8M", "--image",
                                   f"a={self.image}", "--socket", path, *SANDBOX])
        self.addCleanup(daemon.wait)
        self.addCleanup(daemon.terminate)
        done = self.run_wc(path, f"{self.image}=a")
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_image_or_length_that_does_not_fit(self):
        other = peer.make_image(self.folder.name, 1, seed=2)
        daemon = peer.Daemon(COMMAND, {"a": self.image, "two": other})
        self.addCleanup(daemon.close)
        done = self.run_wc(daemon.path, f"{self.image}=nope")
        self.assertEqual(done.returncode, 2)
        self.assertIn("it has 'a', 'two'", done.stderr)
        self.assertIn(daemon.path, done.stderr)
        done = self.run_wc(daemon.path, f"{other}=a")
        self.assertEqual(done.returncode, 2)
        self.assertIn(f"it has {1 << 20} bytes, and the image 'a' {4 << 20}", done.stderr)
        if not peer.sanitized():
            self.assertEqual(self.run_wc(daemon.path, f"{other}=two").returncode, 0)

    def test_no_pool(self):
        done = subprocess.run([COMMAND, "serve", "--image", f"a={self.image}"], capture_output=True, text=True, timeout=30,
                              check=False)
        self.assertEqual(done.returncode, 2)
        self.assertIn("there is no pool", done.stderr)

    def test_check_refuses_what_a_start_refuses(self):
        empty = self.write("empty", "")
        for arguments, words in ((["--budget", "1"], "a budget of 1 bytes"), (["--image", f"b={empty}"], "it is empty"),
                                 (["--image", f"b={self.folder.name}"], "a directory"),
                                 (["--socket", "/tmp/" + "x" * 110], "too long")):
            done = self.serve("--check", *arguments)
            self.assertEqual(done.returncode, 2, arguments)
            self.assertIn(words, done.stderr)


class Waiting(Folder):
    """A consumer waits in its fault for the next worker, which therefore starts, whatever its configuration says now."""

    def config(self, **changes):
        pool = {"name": "main", "budget": "8M", **changes}
        return json.dumps({"pools": [pool], "images": [{"name": "a", "uri": f"file://{self.image}"}]})

    def start(self, config=None, **images):
        daemon = peer.Daemon(COMMAND, images, config=config, wait=False)
        self.addCleanup(daemon.close)
        daemon.wait_ready()
        return daemon

    def survives(self, daemon, damage, words):
        """Damage and kill -9, twice: a page not touched before is read by a mapping that was there before."""
        session = Peer(daemon.path)
        self.addCleanup(session.close)
        view = View(session, "a")
        self.assertEqual(view.read(0, PAGE), peer.page_bytes(0))
        damage()
        for page in (100, 200):
            daemon.kill_worker()
            session.wait_event(EVENT_RESTARTED)
            self.assertEqual(view.read(page * PAGE, PAGE), peer.page_bytes(page))
        for word in words:
            self.assertIn(word, daemon.read_log())
        return session, view

    def test_image_of_others_is_gone(self):
        other = peer.make_image(self.folder.name, 1, seed=2)
        daemon = self.start(a=self.image, two=other)
        session, view = self.survives(daemon, lambda: os.rename(other, other + ".away"), [])
        answer = session.open("two")
        self.assertEqual(answer.status, -errno.ENOENT)
        self.assertIn("image-2", answer.text)
        os.rename(other + ".away", other)
        second = View(session, "two", view=2)
        self.assertEqual(second.read(9 * PAGE, PAGE), peer.page_bytes(9, 2))
        second.close()
        view.close()

    def test_own_image_is_gone(self):
        """Then the view is lost, and its consumer told; it does not wait."""
        daemon = self.start(a=self.image)
        with Peer(daemon.path) as session:
            view = View(session, "a")
            os.rename(self.image, self.image + ".away")
            daemon.kill_worker()
            session.wait_event(EVENT_DETACHED)
            peer.unmap(view.uffd, view.address, view.length)

    def test_configuration_is_broken(self):
        daemon = self.start(self.config())
        _, view = self.survives(daemon, lambda: self.write_config(daemon, "{"), ["line 1", "mend " + daemon.config])
        view.close()
        self.assertEqual(daemon.stop(), 0)

    def test_configuration_is_gone(self):
        daemon = self.start(self.config())
        _, view = self.survives(daemon, lambda: os.unlink(daemon.config), ["No such file", "mend " + daemon.config])
        view.close()

    def test_pool_cannot_be_opened(self):
        daemon = self.start(self.config())
        session, view = self.survives(daemon, lambda: self.write_config(daemon, self.config(budget=1)),
                                      ["a budget of 1 bytes", "mend " + daemon.config])
        self.write_config(daemon, self.config(budget="16M"))  # mended
        daemon.kill_worker()
        session.wait_event(EVENT_RESTARTED)
        self.assertEqual(view.read(300 * PAGE, PAGE), peer.page_bytes(300))
        self.assertIn(b'"budget_bytes":16777216', session.stats().data.replace(b" ", b""))
        view.close()

    def write_config(self, daemon, text):
        with open(daemon.config, "w", encoding="utf-8") as file:
            file.write(text)


if __name__ == "__main__":
    unittest.main(verbosity=2, warnings="ignore")
