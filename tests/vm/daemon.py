# SPDX-License-Identifier: MIT
"""A `minnow serve` of the test's own: its configuration, its processes, its numbers, and its violent deaths."""
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections import defaultdict


class Daemon:
    """Serves one image, "guest", from `uri`. What it is asked to be is in its configuration file in `folder`."""

    def __init__(self, minnow, folder, uri, backing="shmem", budget_mib=768, **image):
        self.minnow = minnow
        # A copy, so that a test may put another binary in its place.
        self.binary = os.path.join(folder, "minnow-served")
        shutil.copy(minnow, self.binary)
        self.socket = os.path.join(folder, "minnow-socket")
        self.log_path = os.path.join(folder, "log-daemon")
        file = os.path.join(folder, "minnow.json")
        with open(file, "w", encoding="utf-8") as out:
            json.dump({"socket": self.socket,
                       "pools": [{"name": "main", "backing": backing, "budget": f"{budget_mib}M"}],
                       "images": [{"name": "guest", "uri": uri, **image}]}, out)
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen([self.binary, "serve", "--config", file], stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 30
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.end()
                raise AssertionError(f"the daemon did not start:\n{self.said()}")
            time.sleep(0.02)

    def answers(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
            try:
                probe.connect(self.socket)
            except OSError:
                return False
        return True

    def _stat(self):
        return subprocess.run([self.minnow, "stat", "--socket", self.socket, "--json"], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=30, check=False)

    def stats(self):
        """What `minnow stat --json` says."""
        answer = self._stat()
        if answer.returncode:
            raise AssertionError(f"minnow stat: {answer.stderr}\nthe daemon said:\n{self.said()}")
        return json.loads(answer.stdout)

    def image(self):
        """The image's numbers; all 0 before somebody has opened it."""
        return next((image for image in self.stats()["images"] if image["name"] == "guest"), defaultdict(int))

    def run(self, *options):
        """The words that go before a command which maps the image."""
        return [self.minnow, "run", "--socket", self.socket, *options, "--"]

    def worker(self):
        """The process that serves: the only child of the one that was started."""
        pid = self.process.pid
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as children:
            found = children.read().split()
        return int(found[0]) if found else None

    def worker_runs_what_is_on_disk(self):
        return os.path.samestat(os.stat(f"/proc/{self.worker()}/exe"), os.stat(self.binary))

    def kill_worker(self):
        """kill -9; seconds until another worker is there."""
        old = self.worker()
        start = time.monotonic()
        os.kill(old, signal.SIGKILL)
        return self._wait_for_another(old, start)

    def hand_over(self):
        """A planned change to a new binary on disk; seconds until the new worker is there."""
        shutil.copy(self.minnow, self.binary + ".new")
        os.replace(self.binary + ".new", self.binary)
        old = self.worker()
        start = time.monotonic()
        self.process.send_signal(signal.SIGHUP)
        return self._wait_for_another(old, start)

    def _wait_for_another(self, old, start):
        while self.worker() in (old, None):
            if self.process.poll() is not None or time.monotonic() - start > 20:
                raise AssertionError(f"no new worker:\n{self.said()}")
            time.sleep(0.001)
        return time.monotonic() - start

    def said(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as log:
            return log.read()[-3000:]

    def end(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        return self.process.returncode
