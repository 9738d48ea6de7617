#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The daemon is killed, and handed over, while consumers read: COMMAND [--kills N] [--handovers N] [--readers N].

Every byte that a consumer reads is compared. The longest stall of any consumer is measured, and so is the start of the
process, which the limit leaves room for.
"""
import argparse
import errno
import itertools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import peer

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../vm"))
from hugepages import HugePages  # noqa: E402 (its folder was just named)

PARSER = argparse.ArgumentParser()
PARSER.add_argument("command")
PARSER.add_argument("--kills", type=int, default=10)
PARSER.add_argument("--handovers", type=int, default=3)
PARSER.add_argument("--readers", type=int, default=3)
PARSER.add_argument("--backing", default="shmem")
PARSER.add_argument("--next", help="a program of another version, whose records are others")
OPTIONS, REST = PARSER.parse_known_args()
MEGABYTES = 32
# On hugetlb a writable view keeps its whole image in memory: nothing would be evicted, and nothing fault any more.
WRITABLE = 0 if OPTIONS.backing.startswith("hugetlb") else 0.3
SLOW = 10 if peer.sanitized() else 1
# Seconds. The machine may be busy with other tests: a stall is measured best when nothing else runs (STRICT). Else it is
# compared with what only somebody who hangs takes.
KILL_LIMIT, HANDOVER_LIMIT, BUSY_LIMIT = 0.250, 0.050, 15
STRICT = os.environ.get("MINNOW_STRICT") == "1"


def start_seconds():
    """How long it takes to start the process alone."""
    begin = time.monotonic()
    subprocess.run([OPTIONS.command, "--version"], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - begin


class Consumers:
    def __init__(self, daemon, count):
        here = os.path.dirname(os.path.abspath(__file__))
        self.processes = [
            subprocess.Popen([sys.executable, os.path.join(here, "reader.py"), daemon.path, "disk", str(MEGABYTES << 8),
                              str(seed), str(WRITABLE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for seed in range(count)]
        for process in self.processes:
            assert process.stdout.readline() == "ready\n"

    def finish(self):
        for process in self.processes:
            process.stdin.close()
        results = []
        for process in self.processes:
            try:
                process.wait(90)
            except subprocess.TimeoutExpired:
                process.kill()
                raise AssertionError("a consumer hangs") from None
            results.append(json.loads(process.stdout.read() or "null"))
            process.stdout.close()
        return results


class Survival(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="minnow-survival-")
        if OPTIONS.backing == "hugetlb-2M":
            self.enterContext(HugePages(MEGABYTES))
        image = peer.make_image(self.folder.name, MEGABYTES)
        # Half of the image: evictions, and therefore faults, never end.
        self.daemon = peer.Daemon(OPTIONS.command, {"disk": image}, budget=f"{MEGABYTES // 2}M",
                                  arguments=["--backing", OPTIONS.backing])

    def tearDown(self):
        self.daemon.close()
        self.folder.cleanup()

    def run_consumers(self, disturb, count):
        start = max(start_seconds() for _ in range(3))
        consumers = Consumers(self.daemon, OPTIONS.readers)
        chance = random.Random(7)
        for _ in range(count):
            time.sleep(chance.uniform(0.05, 0.4))
            disturb()
        time.sleep(0.2)
        results = consumers.finish()
        log = self.daemon.read_log()
        for result in results:
            self.assertIsNotNone(result, "a consumer died: " + log)
            self.assertEqual(result["wrong"], 0)
            self.assertGreater(result["reads"], 0)
        self.assertNotIn("not taken over", log)
        longest = max(result["longest"] for result in results)
        print(f"{count} times: {sum(r['reads'] for r in results)} pages compared, "
              f"{sum(r['attaches'] for r in results)} attaches, longest stall {longest * 1e3:.1f} ms, "
              f"process start {start * 1e3:.1f} ms", file=sys.stderr)
        return longest, start

    def test_killed(self):
        def kill():
            pid = self.daemon.kill_worker()
            self.daemon.wait_worker(pid)

        longest, start = self.run_consumers(kill, OPTIONS.kills)
        self.assertLess(longest, ((KILL_LIMIT if STRICT else BUSY_LIMIT) + start) * SLOW)

    def test_killed_while_nobody_reads_the_log(self):
        """The log is a pipe that is full: nobody waits for whoever should read it."""
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        with self.assertRaises(BlockingIOError):
            while True:
                os.write(writing, bytes(4096))
        os.set_blocking(writing, True)
        image = peer.make_image(self.folder.name, MEGABYTES)
        with peer.Daemon(OPTIONS.command, {"disk": image}, stderr=writing) as daemon:
            consumers = Consumers(daemon, 1)
            for process in consumers.processes:
                self.addCleanup(process.kill)
            for _ in range(3):
                pid = daemon.kill_worker()
                daemon.wait_worker(pid)
            result, = consumers.finish()
            self.assertEqual(result["wrong"], 0)
            self.assertGreater(result["reads"], 0)
            os.set_blocking(reading, False)
            with self.assertRaises(BlockingIOError):
                while True:
                    os.read(reading, 65536)
            os.set_blocking(reading, True)
            daemon.kill_worker()
            said = b""
            while b"the worker ended" not in said:
                said += os.read(reading, 65536)
            self.assertIn(b"lines are missing here", said)
        os.close(reading)
        os.close(writing)

    def test_killed_again_while_it_takes_over(self):
        """The second kill comes at any moment of the start of the next worker."""
        chance = random.Random(3)

        def kill():
            for _ in range(3):
                pid = self.daemon.kill_worker()
                time.sleep(chance.uniform(0, 0.03))
                if self.daemon.worker() == pid:
                    time.sleep(0.02)
            self.daemon.wait_worker(None)

        self.run_consumers(kill, max(OPTIONS.kills // 2, 3))

    def test_handed_over(self):
        def hand_over():
            pid = self.daemon.worker()
            self.daemon.process.send_signal(signal.SIGHUP)
            self.daemon.wait_worker(pid)

        longest, _ = self.run_consumers(hand_over, OPTIONS.handovers)
        self.assertLess(longest, (HANDOVER_LIMIT if STRICT else BUSY_LIMIT) * SLOW)

    def test_no_handover_to_what_would_not_start(self):
        """A broken configuration is found while the old worker goes on."""
        image = peer.make_image(self.folder.name, 1, seed=2)
        config = json.dumps({"pools": [{"name": "main", "budget": "8M"}], "images": [{"name": "a", "uri": f"file://{image}"}]})
        daemon = peer.Daemon(OPTIONS.command, {}, config=config)
        try:
            with peer.Peer(daemon.path) as session:
                view = peer.View(session, "a")
                before = daemon.worker()
                with open(daemon.config, "w", encoding="utf-8") as file:
                    file.write("{")
                daemon.process.send_signal(signal.SIGHUP)
                until = time.monotonic() + 10
                while "no handover" not in daemon.read_log() and time.monotonic() < until:
                    time.sleep(0.02)
                self.assertIn("no handover", daemon.read_log())
                self.assertIn(before, daemon.workers())
                self.assertEqual(view.read(5 * peer.PAGE, peer.PAGE), peer.page_bytes(5, 2))
                view.close()
        finally:
            daemon.close()

    def test_no_handover_without_the_records(self):
        """A next worker that cannot be shown what it will take over is not let go ahead as if that were nothing."""
        image = peer.make_image(self.folder.name, 2, seed=2)
        with peer.Daemon(OPTIONS.command, {"a": image}) as daemon, peer.Peer(daemon.path) as session:
            view = peer.View(session, "a")
            worker, holder = daemon.worker(), daemon.process.pid
            used = {int(fd) for fd in os.listdir(f"/proc/{holder}/fd")}
            free = [fd for fd in range(len(used) + 2) if fd not in used]
            before = resource.prlimit(holder, resource.RLIMIT_NOFILE)
            # Two for the socket between it and the standby, and none for the records.
            resource.prlimit(holder, resource.RLIMIT_NOFILE, (free[1] + 1, before[1]))
            daemon.process.send_signal(signal.SIGHUP)
            until = time.monotonic() + 20
            while "no handover" not in daemon.read_log() and time.monotonic() < until and daemon.worker() == worker:
                time.sleep(0.01)
            resource.prlimit(holder, resource.RLIMIT_NOFILE, before)
            self.assertIn("showing the next worker the records", daemon.read_log())
            self.assertIn("no handover", daemon.read_log())
            self.assertEqual(daemon.worker(), worker)
            self.assertEqual(view.read(peer.PAGE, peer.PAGE), peer.page_bytes(1, 2))
            view.close()

    def test_no_handover_to_other_records(self):
        """A program that cannot read what the worker leaves gets nothing, by a handover or when the worker dies."""
        if not OPTIONS.next:
            self.skipTest("--next was not given")
        program = os.path.join(self.folder.name, "minnow")
        shutil.copy(OPTIONS.command, program)
        daemon = peer.Daemon(program, {"a": peer.make_image(self.folder.name, 2, seed=2)})

        def install(other):
            shutil.copy(other, program + ".new")
            os.rename(program + ".new", program)

        def read_all(pages):
            for page in pages:
                self.assertEqual(view.read(page * peer.PAGE, peer.PAGE), peer.page_bytes(page, 2))

        def wait_log(text, times):
            until = time.monotonic() + 20
            while daemon.read_log().count(text) < times and time.monotonic() < until:
                time.sleep(0.02)
            self.assertEqual(daemon.read_log().count(text), times, daemon.read_log())

        try:
            with peer.Peer(daemon.path) as session:
                view = peer.View(session, "a")
                before = daemon.worker()
                install(OPTIONS.next)
                daemon.process.send_signal(signal.SIGHUP)
                wait_log("no handover", 1)
                self.assertIn("records are of version 1", daemon.read_log())
                self.assertIn("this minnow reads version 2", daemon.read_log())
                self.assertEqual(daemon.workers(), [before])
                read_all(range(0, 128))
                daemon.kill_worker()  # after a refused handover, nothing is tried twice
                after = daemon.wait_worker(before)
                read_all(range(64, 192))
                install(OPTIONS.command)
                daemon.process.send_signal(signal.SIGHUP)
                daemon.wait_worker(after)
                read_all(range(128, 256))
                install(OPTIONS.next)
                after = daemon.kill_worker()  # nobody has tried it
                daemon.wait_worker(after)
                wait_log("of the program that the daemon was started with", 1)
                read_all(range(192, 512))
                self.assertNotIn("afresh", daemon.read_log())
                self.assertEqual(view.close().status, 0)
        finally:
            daemon.close()

    def stopped_standby(self, daemon):
        """Begins a handover; the next worker, held where it is before it could be ready, and the one that serves."""
        for _ in range(100):
            old = daemon.worker()
            daemon.process.send_signal(signal.SIGHUP)
            while daemon.workers() == [old]:  # on a busy machine both may come and go unseen
                time.sleep(0.0002)
            standby = next((pid for pid in daemon.workers() if pid != old), None)
            if standby:
                os.kill(standby, signal.SIGSTOP)
            time.sleep(0.1)
            if standby and daemon.workers() == [old, standby]:
                return old, standby
            if standby:  # it was faster
                os.kill(standby, signal.SIGCONT)
            daemon.wait_worker(old)
        raise AssertionError("no handover can be caught under way")

    def test_deaths_during_a_handover(self):
        image = peer.make_image(self.folder.name, 1, seed=2)
        daemon = peer.Daemon(OPTIONS.command, {"a": image})
        try:
            with peer.Peer(daemon.path) as session:
                view = peer.View(session, "a")

                def read(page):
                    self.assertEqual(view.read(page * peer.PAGE, peer.PAGE), peer.page_bytes(page, 2))

                read(0)
                old, standby = self.stopped_standby(daemon)
                read(50)
                os.kill(standby, signal.SIGKILL)  # then the old one goes on
                while len(daemon.workers()) > 1:
                    time.sleep(0.01)
                self.assertEqual(daemon.workers(), [old])
                self.assertIn("no handover", daemon.read_log())
                read(100)
                old, standby = self.stopped_standby(daemon)
                os.kill(old, signal.SIGKILL)  # then the next one takes over, as soon as it can
                time.sleep(0.1)
                os.kill(standby, signal.SIGCONT)
                read(150)
                self.assertEqual(daemon.workers(), [standby])
                read(200)
                old, standby = self.stopped_standby(daemon)
                os.kill(old, signal.SIGKILL)  # both
                os.kill(standby, signal.SIGKILL)
                read(225)
                old, standby = self.stopped_standby(daemon)
                view.close()
            self.assertEqual(daemon.stop(), 0)
            self.assertFalse(os.path.exists(f"/proc/{standby}"))
        finally:
            daemon.close()

    @unittest.skipIf(peer.sanitized(), "waits for deadlines, which are longer where all is slower")
    def test_hanging_handovers(self):
        """Who hangs in a handover is not waited for: the next worker is replaced, and so is the one that does not go."""
        image = peer.make_image(self.folder.name, 1, seed=2)
        daemon = peer.Daemon(OPTIONS.command, {"a": image}, environment={"MINNOW_STANDBY_SECONDS": str(1 * SLOW)})
        pages = iter(range(0, 256, 20))

        def handed_on(view, others, word):
            """Whoever serves now is none of these, and the log says why."""
            until = time.monotonic() + 15 * SLOW
            while (len(daemon.workers()) != 1 or daemon.worker() in others) and time.monotonic() < until:
                time.sleep(0.02)
            self.assertEqual(len(daemon.workers()), 1)
            self.assertNotIn(daemon.worker(), others)
            self.assertIn(word, daemon.read_log())
            page = next(pages)
            self.assertEqual(view.read(page * peer.PAGE, peer.PAGE), peer.page_bytes(page, 2))

        try:
            with peer.Peer(daemon.path) as session:
                view = peer.View(session, "a")
                old, standby = self.stopped_standby(daemon)
                handed_on(view, (old, standby), f"(process {standby}) did not get ready within")
                old, standby = self.stopped_standby(daemon)
                os.kill(old, signal.SIGKILL)  # the one that hangs is the worker now
                handed_on(view, (old, standby), f"(process {standby}) did not get ready in time")
                old = daemon.worker()
                os.kill(old, signal.SIGSTOP)
                daemon.process.send_signal(signal.SIGHUP)
                handed_on(view, (old,), f"(process {old}) did not leave for the next one")
                view.close()
            self.assertEqual(daemon.stop(), 0)
        finally:
            daemon.close()

    @unittest.skipUnless(OPTIONS.kills >= 50 and not os.geteuid(), "takes seconds, and EVENT_FORK takes CAP_SYS_PTRACE")
    def test_more_children_than_are_served(self):
        """2048 live through the worker's death; who comes later gets SIGBUS where it has not been, and never zeros."""
        before, peer.FEATURES = peer.FEATURES, peer.FEATURES | peer.EVENT_FORK
        self.addCleanup(setattr, peer, "FEATURES", before)
        with peer.Peer(self.daemon.path) as session:
            peer.userfaultfd.__defaults__ = (peer.FEATURES, *peer.userfaultfd.__defaults__[1:])
            view = peer.View(session, "disk")
            gate, opener = os.pipe()
            children = []
            for _ in range(2060):
                pid = os.fork()
                if not pid:
                    os.close(opener)
                    os.read(gate, 1)
                    os._exit(view.read(200 * peer.PAGE, peer.PAGE) != peer.page_bytes(200))
                children.append(pid)
            # A child asks so itself, if it can.
            self.assertEqual(session.ask(peer.HELLO, peer.struct.pack("=II", peer.VERSION, 1) + peer.name("x")).status, 0)
            self.daemon.kill_worker()
            session.wait_event(peer.EVENT_RESTARTED)
            os.close(opener)
            ends = [os.waitpid(pid, 0)[1] for pid in children]
            self.assertEqual((ends.count(0), ends.count(signal.SIGBUS)), (2048, 12))
            view.close()

    @unittest.skipUnless(OPTIONS.kills >= 50 and not os.geteuid(), "takes seconds, and EVENT_FORK takes CAP_SYS_PTRACE")
    def test_children_without_end(self):
        """Whoever goes on forking beyond what is served loses the view, and others are served."""
        before, peer.FEATURES = peer.FEATURES, peer.FEATURES | peer.EVENT_FORK
        self.addCleanup(setattr, peer, "FEATURES", before)
        gate, opener = os.pipe()
        children = []
        with peer.Peer(self.daemon.path) as session:
            defaults, peer.userfaultfd.__defaults__ = peer.userfaultfd.__defaults__, (peer.FEATURES, *peer.userfaultfd.__defaults__[1:])
            self.addCleanup(setattr, peer.userfaultfd, "__defaults__", defaults)
            peer.View(session, "disk")
            for _ in range(2048 + 257):
                pid = os.fork()
                if not pid:
                    os.close(opener)
                    os.read(gate, 1)
                    os._exit(0)
                children.append(pid)
            event = session.wait_event(peer.EVENT_DETACHED)
            self.assertIn(peer.struct.pack("=i", -errno.EDQUOT), event.body)
            with peer.Peer(self.daemon.path) as other:
                peer.FEATURES = before
                peer.userfaultfd.__defaults__ = defaults
                view = peer.View(other, "disk")
                self.assertEqual(view.read(200 * peer.PAGE, peer.PAGE), peer.page_bytes(200))
                view.close()
            os.close(opener)
            for pid in children:
                os.waitpid(pid, 0)

    def test_settled_among_changes(self):
        """Whoever moves its views without end does not keep others from being told that all is settled."""
        consumers = []
        for _ in range(3):
            pid = os.fork()
            if not pid:
                peer.die_with_parent()
                with peer.Peer(self.daemon.path) as session:
                    views = [peer.View(session, "disk", view=1 + i) for i in range(16)]
                    half, places = views[0].length // 2, [view.address for view in views]
                    for turn in itertools.count():
                        for i, place in enumerate(places):
                            # Far from where anything else is mapped meanwhile.
                            places[i] = (0x100000000000 << turn % 2) + i * half
                            assert peer.libc.mremap(place, half, half, 3, places[i]) == places[i]
            consumers.append(pid)
        time.sleep(0.5 * SLOW)
        longest = 0
        body = peer.struct.pack("=II", peer.VERSION, 3) + peer.name("x")
        with peer.Peer(self.daemon.path) as session:
            for _ in range(100):
                begin = time.monotonic()
                answer = session.ask(peer.HELLO, body)
                longest = max(longest, time.monotonic() - begin)
                self.assertEqual((answer.status, peer.struct.unpack_from("=II", answer.body)), (0, (1, 3)))
        for pid in consumers:
            self.assertEqual(os.waitpid(pid, os.WNOHANG), (0, 0), "it ended: " + self.daemon.read_log())
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self.assertLess(longest, 2 * SLOW)

    def test_killed_before_hello_was_answered(self):
        """Whoever has said HELLO to a worker that is gone says it again, and need not wait for a deadline."""
        with peer.Peer(self.daemon.path, greet=False) as session:
            with peer.Peer(self.daemon.path):
                pass  # the first one was accepted, too
            pid = self.daemon.kill_worker()
            self.assertEqual(session.receive().kind, peer.EVENT_RESTARTED)
            answer = session.ask(peer.HELLO, peer.struct.pack("=II", peer.VERSION, 1) + peer.name("again"))
            self.assertEqual((answer.status, peer.struct.unpack_from("=II", answer.body)[1]), (0, 1))
            self.daemon.wait_worker(pid)

    def test_holder_killed(self):
        """The worker goes on without its holder."""
        image = peer.make_image(self.folder.name, 1, seed=2)
        daemon = peer.Daemon(OPTIONS.command, {"a": image})
        worker = daemon.worker()
        try:
            with peer.Peer(daemon.path) as session:
                view = peer.View(session, "a")
                daemon.process.kill()
                daemon.process.wait()
                self.assertEqual(view.read(5 * peer.PAGE, peer.PAGE), peer.page_bytes(5, 2))
                self.assertEqual(view.close().status, 0)
                other = peer.View(session, "a", view=2)
                self.assertEqual(other.read(9 * peer.PAGE, peer.PAGE), peer.page_bytes(9, 2))
                # What it noticed when it stored the second view: it keeps nothing, and says so.
                body = peer.struct.pack("=II", peer.VERSION, 3) + peer.name("x")
                self.assertEqual(peer.struct.unpack_from("=II", session.ask(peer.HELLO, body).body), (1, 0))
                other.close()
        finally:
            os.kill(worker, signal.SIGTERM)
            daemon.close()


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *REST], verbosity=2, warnings="ignore")
