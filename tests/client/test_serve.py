#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""`minnow run` and the client example against the real daemon: COMMAND GUEST EXAMPLE [--kills N].

The guest is a program that knows nothing of minnow; it maps a file full of 0xff and must see the image.
"""
import argparse
import os
import pathlib
import select
import signal
import subprocess
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "daemon"))
import peer  # noqa: E402

PARSER = argparse.ArgumentParser()
PARSER.add_argument("command")
PARSER.add_argument("guest")
PARSER.add_argument("example")
PARSER.add_argument("--kills", type=int, default=8)
PARSER.add_argument("--guests", type=int, default=3)
OPTIONS, REST = PARSER.parse_known_args()
SIZE = (1 << 20) - 100
MASK = (1 << 64) - 1


def image_bytes():
    """As tests/client/bytes.h makes them."""
    out = bytearray(SIZE)
    for offset in range(SIZE):
        z = ((offset >> 3) * 0x9e3779b97f4a7c15 + offset) & MASK
        out[offset] = ((z ^ z >> 29 ^ z >> 51) | 1) & 0xff
    return bytes(out)


BYTES = image_bytes()


class Run(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(peer.tempfile.mkdtemp(prefix="minnow-run-"))
        self.file = self.folder / "placeholder"
        self.file.write_bytes(b"\xff" * SIZE)
        (self.folder / "store").write_bytes(BYTES)
        self.daemon = self.open()

    def open(self):
        return peer.Daemon(OPTIONS.command, {"img": self.folder / "store"}, budget="4M")

    def tearDown(self):
        self.daemon.close()
        for path in self.folder.iterdir():
            path.unlink()
        self.folder.rmdir()

    def start(self, check, *options, **more):
        return subprocess.Popen([OPTIONS.command, "run", "--socket", self.daemon.path, "--map", f"{self.file}=img",
                                 *options, "--", OPTIONS.guest, check, self.file], stdin=subprocess.DEVNULL,
                                stderr=subprocess.PIPE, text=True, **more)

    def end(self, process, expected=0):
        _, errors = process.communicate(timeout=600)
        self.assertEqual(process.returncode, expected, errors + self.daemon.read_log())

    def test_every_check(self):
        for check in ("read", "writes", "fixed", "parts", "remap", "dontneed", "remove", "punch", "syscalls", "fork",
                      "exec", "library", "threads", "others"):
            with self.subTest(check):
                self.end(self.start(check))
        self.assertEqual((self.folder / "store").read_bytes(), BYTES)

    def need_poison(self):
        if not peer.offered() & peer.POISON:
            self.skipTest("following forks takes UFFDIO_POISON")

    def test_follow_fork(self):
        self.need_poison()
        if os.geteuid():
            self.skipTest("EVENT_FORK takes CAP_SYS_PTRACE")
        self.end(self.start("follow", "--follow-fork"))

    def test_memfd(self):
        done = subprocess.run([OPTIONS.command, "run", "--socket", self.daemon.path, "--memfd", "ram=img", "--",
                               OPTIONS.guest, "memfd", self.file], stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_recorded_and_replayed(self):
        self.end(self.start("remove", "--record"))  # ends with its views mapped
        self.assertTrue((self.folder / "store.mws").exists(), self.daemon.read_log())
        self.end(self.start("read", "--replay"))

    def disturbed(self, disturb, count):
        rounds = {**os.environ, "GUEST_ROUNDS": str(count)}
        guests = [self.start("slowly", stdout=subprocess.PIPE, env=rounds) for _ in range(OPTIONS.guests)]
        for guest in guests:
            self.assertEqual(guest.stdout.read(1), "*")
        for _ in range(count):
            disturb()
            time.sleep(0.04)
        for guest in guests:
            self.end(guest)

    def test_worker_killed(self):
        def kill():
            pid = self.daemon.kill_worker()
            self.daemon.wait_worker(pid, asked=False)
        self.disturbed(kill, OPTIONS.kills)

    def test_worker_handed_over(self):
        def hand_over():
            pid = self.daemon.worker()
            self.daemon.process.send_signal(signal.SIGHUP)
            self.daemon.wait_worker(pid, asked=False)
        self.disturbed(hand_over, 3)

    def start_parent(self, role):
        """A guest that forks; returns once it has."""
        self.need_poison()
        if os.geteuid():
            self.skipTest("EVENT_FORK takes CAP_SYS_PTRACE")
        guest = subprocess.Popen([OPTIONS.command, "run", "--socket", self.daemon.path, "--map", f"{self.file}=img",
                                  "--follow-fork", "--", OPTIONS.guest, role, self.file], stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.assertEqual(guest.stdout.read(1), "*")
        return guest

    def test_stopped_with_children(self):
        guest = self.start_parent("stopped")
        self.daemon.stop()
        _, errors = guest.communicate("x", timeout=60)
        self.assertEqual((guest.returncode, errors), (0, ""), self.daemon.read_log())

    def kill_all(self, worker, holder_first=False):
        """When it returns, nobody listens any more."""
        self.daemon.process.kill()
        if holder_first:
            self.daemon.process.wait()
        ends = os.pidfd_open(worker)
        os.kill(worker, signal.SIGKILL)
        select.select([ends], [], [])
        os.close(ends)
        self.daemon.process.wait()

    def widow(self, before):
        guest = self.start_parent("widowed")
        self.assertEqual(guest.wait(60), 0)
        before(guest, self.daemon.worker())
        again = self.start_again()  # who forks asks a daemon
        try:
            out, errors = guest.communicate("x", timeout=60)
        finally:
            again.terminate()
            again.wait(30)
        self.assertEqual((out, errors), ("o", ""))

    def start_again(self):
        return subprocess.Popen([OPTIONS.command, "serve", "--socket", self.daemon.path, "--budget", "4M", "--image",
                                 f"img={self.folder / 'store'}"], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def test_children_survive_kills_and_then_nobody_is_left(self):
        """Holder and worker die together, after a restart: what a child has not touched is SIGBUS, never zeros."""
        def disturb(_, worker):
            self.daemon.kill_worker()
            self.daemon.wait_worker(worker, asked=False)
            self.kill_all(self.daemon.worker())
        self.widow(disturb)

    def wait_stopped(self, pid):
        until = time.monotonic() + 30
        while True:
            states = set()
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/stat", encoding="ascii") as file:
                    states.add(file.read().rsplit(")", 1)[1].split()[0])
            if states == {"T"}:
                return
            self.assertLess(time.monotonic(), until)
            time.sleep(0.001)

    def test_a_child_that_waits_when_nobody_is_left(self):
        def disturb(guest, worker):
            os.kill(worker, signal.SIGSTOP)
            self.wait_stopped(worker)
            guest.stdin.write("x")
            guest.stdin.flush()
            time.sleep(0.1)  # it waits by then, most often
            self.kill_all(worker)
        self.widow(disturb)

    def test_a_child_when_the_holder_is_killed_first(self):
        def disturb(_, worker):
            self.kill_all(worker, holder_first=True)
        self.widow(disturb)

    def forking(self, disturb):
        """Children of children too, and some that outlive their parents; every byte that they read is compared."""
        self.need_poison()
        if os.geteuid():
            self.skipTest("EVENT_FORK takes CAP_SYS_PTRACE")
        rounds = {**os.environ, "GUEST_ROUNDS": str(OPTIONS.kills * 6)}
        guests = [self.start("forks", "--follow-fork", stdout=subprocess.PIPE, env=rounds)
                  for _ in range(OPTIONS.guests)]
        for guest in guests:
            self.assertEqual(guest.stdout.read(1), "*")
        count = 0
        while any(guest.poll() is None for guest in guests) or count % 3:
            disturb()
            time.sleep(0.01 + count * 7 % 50 / 1000)
            count += 1
        for guest in guests:
            out, errors = guest.communicate(timeout=120)
            self.assertEqual((guest.returncode, out, errors), (0, "o", ""), self.daemon.read_log())
        print(f"{count} times", file=sys.stderr)
        lost = [line for line in self.daemon.read_log().splitlines() if "not taken over" in line]
        self.assertEqual([line for line in lost if not line.endswith("is gone")], [])
        # Those that have ended are let go.
        until = time.monotonic() + 30
        while self.views() and time.monotonic() < until:
            time.sleep(0.2)
        self.assertEqual(self.views(), 0)

    def views(self):
        with peer.Peer(self.daemon.path) as session:
            answer = session.ask(peer.LIST, bytes(8))
            return peer.IMAGE.unpack_from(answer.body, 8)[7]

    def test_worker_killed_among_forks(self):
        def kill():
            pid = self.daemon.kill_worker()
            self.daemon.wait_worker(pid, asked=False)
        self.forking(kill)

    def test_worker_handed_over_among_forks(self):
        def hand_over():
            pid = self.daemon.worker()
            self.daemon.process.send_signal(signal.SIGHUP)
            self.daemon.wait_worker(pid, asked=False)
        self.forking(hand_over)

    def test_all_is_lost(self):
        """Holder and worker die together: whoever touches a page that was not mapped gets SIGBUS, never zeros."""
        guest = self.start("slowly", stdout=subprocess.PIPE)
        self.assertEqual(guest.stdout.read(1), "*")
        self.kill_all(self.daemon.worker())
        again = self.start_again()
        try:
            self.end(guest, -signal.SIGBUS)
        finally:
            again.terminate()
            again.wait(30)

    def test_example(self):
        def lines():
            return subprocess.run([OPTIONS.example, "img", self.daemon.path], stdin=subprocess.DEVNULL,
                                  capture_output=True, text=True, timeout=60, check=False)
        done = lines()
        self.assertEqual((done.returncode, done.stdout), (0, f"{BYTES.count(10)} lines\n"), done.stderr)
        self.assertIn("image img in pool main", done.stderr)
        absent = subprocess.run([OPTIONS.example, "img", "/nonexistent"], capture_output=True, text=True, check=False)
        self.assertEqual(absent.returncode, 1)
        self.assertIn("minnow serve", absent.stderr)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *REST], verbosity=2)
