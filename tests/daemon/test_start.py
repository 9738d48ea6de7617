#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""How `minnow serve` starts and ends: configuration, privileges, and a manager that speaks as systemd does. COMMAND."""
import array
import json
import os
import re
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest

import peer
from peer import EVENT_DETACHED, EVENT_ENDED, EVENT_RESTARTED, PAGE, Gone, Peer, View

COMMAND = sys.argv.pop(1)
SANDBOX = [] if not peer.sanitized() else ["--no-sandbox"]


class Configuration(unittest.TestCase):
    """Every bad value is refused, before anything is done, with file, key, and what to do."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="minnow-start-")
        cls.image = peer.make_image(cls.folder.name, 1)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def check(self, config, *arguments):
        path = os.path.join(self.folder.name, "conf")
        with open(path, "w", encoding="utf-8") as file:
            file.write(config if isinstance(config, str) else json.dumps(config))
        return subprocess.run([COMMAND, "serve", "--check", "--config", path, *arguments], capture_output=True, text=True,
                              timeout=30, check=False)

    def good(self):
        return {"socket": "/run/x", "pools": [{"name": "main", "budget": "8M"}],
                "images": [{"name": "a", "uri": f"file://{self.image}"}]}

    def test_good(self):
        done = self.check(self.good())
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_the_example(self):
        example = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../docs/minnow.conf")
        with open(example, encoding="utf-8") as file:
            text = file.read()
        self.assertEqual(self.check(text).stderr, "")

    def test_bad(self):
        def changed(change):
            config = self.good()
            change(config)
            return config

        many = [{"name": f"i{n}", "uri": "file:///x"} for n in range(257)]
        cases = [
            ("{", "line 1"),
            ("[]", "must be an object"),
            ('{"socket": "a", "socket": "b"}', "duplicate"),
            (changed(lambda c: c.update(sokcet="x")), "sokcet: is no key here"),
            (changed(lambda c: c.update(socket=5)), "socket: must be a text"),
            (changed(lambda c: c.update(socket_mode="999")), "socket_mode: must be permissions in octal"),
            (changed(lambda c: c.update(user="nobody-of-that-name")), "user: there is no user"),
            (changed(lambda c: c.update(sandbox="no")), "sandbox: must be true or false"),
            (changed(lambda c: c.update(pools={})), "pools: must be a list"),
            (changed(lambda c: c.update(pools=[])), "pool"),
            (changed(lambda c: c.update(images=[])), "there is no image"),
            (changed(lambda c: c.update(images=many)), "one image too many"),
            (changed(lambda c: c["pools"][0].pop("budget")), "pools[0].budget: is missing"),
            (changed(lambda c: c["pools"][0].update(budget="8X")), "pools[0].budget: must be a size"),
            (changed(lambda c: c["pools"][0].update(budget="99999999999T")), "pools[0].budget: must be a size"),
            (changed(lambda c: c["pools"][0].update(backing="tape")), "pools[0].backing: must be one of shmem, graded"),
            (changed(lambda c: c["pools"][0].update(numa="all")), "pools[0].numa: must be one of"),
            (changed(lambda c: c["pools"][0].update(fault_threads=0)), "pools[0].fault_threads: must be a whole number"),
            (changed(lambda c: c["pools"][0].update(name="a b")), "pools[0].name: 'a b' must hold no spaces"),
            (changed(lambda c: c["pools"][0].update(name="x" * 64)), "pools[0].name: has 64 bytes"),
            (changed(lambda c: c["pools"].append(c["pools"][0])), "pools[1].name: there already is a pool 'main'"),
            (changed(lambda c: c["images"][0].pop("uri")), "images[0].uri: is missing"),
            (changed(lambda c: c["images"][0].update(uri="/x")), "images[0].uri: is missing, or no URI"),
            (changed(lambda c: c["images"][0].update(pool="other")), "images[0].pool: there is no pool 'other'"),
            (changed(lambda c: c["images"].append(c["images"][0])), "images[1].name: there already is an image 'a'"),
            (changed(lambda c: c["images"][0].update(read_around="4M")), "images[0].read_around: is more than 2M"),
            (changed(lambda c: c["images"][0].update(read_around=-1)), "images[0].read_around: must be a size"),
            (changed(lambda c: c["images"][0].update(read_deadline_ms=-1)), "images[0].read_deadline_ms: must be"),
            (changed(lambda c: c["images"][0].update(access={"users": ["nobody-of-that-name"]})),
             "images[0].access.users: there is no user nobody-of-that-name"),
            (changed(lambda c: c.update(access={"groups": [True]})), "access.groups: there is no group"),
            (changed(lambda c: c.update(limits={"views": 5000})), "limits.views: must be a whole number from 0 to 4096"),
            (changed(lambda c: c.update(limits={"pages": 1})), "limits.pages: is no key here"),
        ]
        for config, words in cases:
            done = self.check(config)
            self.assertEqual(done.returncode, 2, (config, done.stderr))
            self.assertIn(words, done.stderr)
            self.assertIn("/conf: ", done.stderr)

    def test_command_line(self):
        for arguments, words in ((["--budget", "x"], "--budget"), (["--read-around", "3M"], "--read-around"),
                                  (["--backing", "x"], "--backing"),
                                 (["--budget", "8M", "--image", "x"], "NAME=FILE"),
                                 (["--budget", "8M", "--image", "x=/no/such/file"], "/no/such/file"),
                                 (["--budget", "8M"], "there is no image"), ([], "there is no pool"),
                                 (["--config", "/no/such/file"], "/no/such/file"), (["more"], "one word too many")):
            done = subprocess.run([COMMAND, "serve", "--check", *arguments], capture_output=True, text=True, timeout=30,
                                  check=False)
            self.assertEqual(done.returncode, 2, arguments)
            self.assertIn(words, done.stderr)


class Running(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="minnow-start-")
        os.chmod(self.folder.name, 0o755)
        self.image = peer.make_image(self.folder.name, 4)

    def tearDown(self):
        self.folder.cleanup()

    def start(self, **arguments):
        daemon = peer.Daemon(COMMAND, {"a": self.image}, **arguments)
        self.addCleanup(daemon.close)
        return daemon

    def test_stop(self):
        """Peers are told; the status is 0; nothing stays behind."""
        for sign in (signal.SIGTERM, signal.SIGINT):
            daemon = self.start()
            session = Peer(daemon.path)
            view = View(session, "a")
            self.assertEqual(view.read(PAGE, PAGE), peer.page_bytes(1))
            self.assertEqual(daemon.stop(sign), 0)
            kinds = []
            with self.assertRaises(Gone):
                while True:
                    kinds.append(session.receive())
            self.assertEqual([k.kind for k in kinds], [EVENT_DETACHED, EVENT_ENDED], kinds)
            self.assertFalse(os.path.exists(daemon.path) or os.path.exists(daemon.path + ".holder"))
            peer.unmap(view.uffd, view.address, view.length)
            session.close()

    def test_failures_are_logged(self):
        """An image that was cut short under its consumers: the log says which, where and why, and not once for each page."""
        daemon = self.start()
        reader = os.fork()
        if not reader:
            peer.die_with_parent()
            for page in (300, 301):
                if not os.fork():
                    with Peer(daemon.path) as session:
                        view = View(session, "a")
                        os.truncate(self.image, 100 * PAGE)
                        view.read(page * PAGE, PAGE)
                    os._exit(0)
                if os.waitstatus_to_exitcode(os.wait()[1]) != -signal.SIGBUS:
                    os._exit(1)
            os._exit(0)
        self.assertEqual(os.waitpid(reader, 0)[1], 0)
        until = time.monotonic() + 10
        while "could not be read" not in daemon.read_log() and time.monotonic() < until:
            time.sleep(0.01)
        lines = [line for line in daemon.read_log().splitlines() if "could not be read" in line]
        self.assertEqual(len(lines), 1, daemon.read_log())
        self.assertIn("image 'a': the page at 12", lines[0])
        self.assertIn("No data available", lines[0])

    def test_image_with_an_odd_name(self):
        odd = os.path.join(self.folder.name, "we%20ird?=# image")
        os.rename(self.image, odd)
        self.image = odd
        with Peer(self.start().path) as session:
            view = View(session, "a")
            self.assertEqual(view.read(0, PAGE), peer.page_bytes(0))
            view.close()

    def test_two_at_one_place(self):
        daemon = self.start()
        done = subprocess.run([COMMAND, "serve", "--alone", "--socket", daemon.path, "--budget", "8M", "--image",
                               f"a={self.image}", *SANDBOX], capture_output=True, text=True, timeout=30, check=False)
        self.assertEqual(done.returncode, 2)
        self.assertIn("another daemon listens there", done.stderr)
        Peer(daemon.path).close()

    def wait_until_nobody_listens(self, path):
        """A process that was killed has its sockets until the last of its threads is gone."""
        until = time.monotonic() + 20
        while True:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
                try:
                    probe.connect(path)
                except ConnectionRefusedError:
                    return
            self.assertLess(time.monotonic(), until)
            time.sleep(0.01)

    def test_after_one_that_was_killed_with_its_holder(self):
        """The socket file that stays behind is replaced."""
        daemon = self.start()
        worker = daemon.worker()
        daemon.process.kill()
        daemon.process.wait()
        os.kill(worker, signal.SIGKILL)
        self.wait_until_nobody_listens(daemon.path)
        process = subprocess.Popen([COMMAND, "serve", "--alone", "--socket", daemon.path, "--budget", "8M", "--image",
                                    f"a={self.image}", *SANDBOX])
        try:
            until = time.monotonic() + 10
            while True:
                try:
                    Peer(daemon.path).close()
                    break
                except (OSError, Gone):
                    self.assertLess(time.monotonic(), until)
                    time.sleep(0.02)
        finally:
            process.terminate()
            self.assertEqual(process.wait(20), 0)

    def status(self, pid):
        with open(f"/proc/{pid}/status", encoding="ascii") as file:
            return dict(line.split(":\t", 1) for line in file.read().splitlines() if ":\t" in line)

    @unittest.skipIf(peer.sanitized(), "the sandbox is off under a sanitizer")
    def test_sandbox(self):
        """Every thread is filtered, nothing can be gained back, and few capabilities are left."""
        daemon = self.start()
        with Peer(daemon.path) as session:
            view = View(session, "a")
            view.read(0, PAGE)
            worker = daemon.worker()
            for thread in os.listdir(f"/proc/{worker}/task"):
                status = self.status(f"{worker}/task/{thread}")
                self.assertEqual((status["Seccomp"], status["NoNewPrivs"]), ("2", "1"), thread)
                # CAP_DAC_READ_SEARCH and CAP_SYS_PTRACE
                self.assertEqual(int(status["CapEff"], 16) & ~(1 << 2 | 1 << 19), 0, status["CapEff"])
                self.assertEqual(int(status["CapInh"], 16), 0)
            view.close()
        holder = self.status(daemon.process.pid)
        self.assertEqual(holder["Seccomp"], "0")

    @unittest.skipUnless(os.geteuid() == 0 and not peer.sanitized(), "only root can become somebody else")
    def test_another_user(self):
        image = os.path.join(self.folder.name, "image-1")
        os.chmod(image, 0o644)
        config = {"user": "nobody", "pools": [{"name": "main", "budget": "8M"}], "access": {"users": [0]},
                  "images": [{"name": "a", "uri": f"file://{image}"}]}
        daemon = peer.Daemon(COMMAND, {}, config=json.dumps(config), wait=False)
        self.addCleanup(daemon.close)
        daemon.wait_ready()
        with Peer(daemon.path) as session:
            view = View(session, "a")
            self.assertEqual(view.read(0, PAGE), peer.page_bytes(0))
            worker = daemon.worker()
            status = self.status(worker)
            self.assertEqual(set(status["Uid"].split()), {"65534"})
            self.assertEqual(int(status["CapEff"], 16) & ~(1 << 19), 0)
            self.assertEqual(status["Seccomp"], "2")
            daemon.kill_worker()
            self.assertEqual(view.read(100 * PAGE, PAGE), peer.page_bytes(100))
            session.wait_event(EVENT_RESTARTED)
            self.assertNotIn("not taken over", daemon.read_log())
            view.close()

    def test_holder_gives_up_on_what_never_starts(self):
        """A machine or configuration that is refused at the first start is not tried again."""
        done = subprocess.run([COMMAND, "serve", "--socket", f"{self.folder.name}/s", "--budget", "1", "--image",
                               f"a={self.image}", *SANDBOX], capture_output=True, text=True, timeout=30, check=False)
        self.assertEqual(done.returncode, 2)
        self.assertIn("pool 'main'", done.stderr)


class Systemd:
    """What systemd does for a service with NotifyAccess=main, FileDescriptorStoreMax= and, perhaps, a socket unit."""

    def __init__(self, folder, call, activation=None):
        self.folder, self.call, self.store, self.status = folder, call, [], []
        self.ready = self.stopping = False
        self.path = os.path.join(folder, "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.socket.bind(self.path)
        self.activation = activation
        self.process = None

    def start(self):
        passed = ([("minnow.socket", self.activation.fileno())] if self.activation else []) + self.store
        # dup2 below must not run over what it has yet to copy
        above = max([500, *(fd + 1 for _, fd in passed)])
        moved = [(name, os.dup2(fd, above + i)) for i, (name, fd) in enumerate(passed)]
        self.ready = False

        def place():
            for i, (_, fd) in enumerate(moved):
                os.dup2(fd, 3 + i)
            os.environ["LISTEN_PID"] = str(os.getpid())

        script = "import os, sys; os.environ['LISTEN_PID'] = str(os.getpid()); os.execv(sys.argv[1], sys.argv[1:])"
        environment = {**os.environ, "NOTIFY_SOCKET": self.path, "LISTEN_FDS": str(len(passed)),
                       "LISTEN_FDNAMES": ":".join(name for name, _ in passed)}
        self.process = subprocess.Popen([sys.executable, "-c", script, *self.call], env=environment, preexec_fn=place,
                                        pass_fds=range(3, 3 + len(passed)))
        for _, fd in moved:
            os.close(fd)

    def take(self, seconds=0.0):
        """Takes in one notification."""
        if not select.select([self.socket], [], [], seconds)[0]:
            return False
        text, ancillary, _, _ = self.socket.recvmsg(4096, 4096)
        fds, pid = array.array("i"), None
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(data)
            elif level == socket.SOL_SOCKET and kind == 2:
                pid = struct.unpack("=iII", data)[0]
        values = dict(line.split("=", 1) for line in text.decode().splitlines())
        assert pid == self.process.pid, (pid, self.process.pid)
        if values.get("FDSTORE") == "1":
            assert len(fds) == 1 and re.fullmatch(r"[^:\x00-\x1f]{1,255}", values["FDNAME"]), values
            self.store.append((values["FDNAME"], fds[0]))
            fds = []
        if values.get("FDSTOREREMOVE") == "1":
            for name, fd in list(self.store):
                if name == values["FDNAME"]:
                    os.close(fd)
                    self.store.remove((name, fd))
        self.ready |= values.get("READY") == "1"
        self.stopping |= values.get("STOPPING") == "1"
        for fd in fds: # BARRIER=1: closing it is the answer
            os.close(fd)
        return True

    def run_until(self, done, seconds=20):
        until = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < until, "nothing came of it"
            self.take(0.01)

    def names(self):
        return sorted(name.split(".")[0] for name, _ in self.store)


class UnderSystemd(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="minnow-systemd-")
        self.path = os.path.join(self.folder.name, "socket")
        image = peer.make_image(self.folder.name, 8)
        self.call = [COMMAND, "serve", "--socket", self.path, "--budget", "4M", "--image", f"a={image}", *SANDBOX]

    def tearDown(self):
        self.folder.cleanup()

    def reader(self):
        here = os.path.dirname(os.path.abspath(__file__))
        process = subprocess.Popen([sys.executable, os.path.join(here, "reader.py"), self.path, "a", "2048", "3"],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.addCleanup(process.kill)
        self.assertEqual(process.stdout.readline(), "ready\n")
        return process

    def finish(self, manager, process):
        process.stdin.close()
        manager.run_until(lambda: process.poll() is not None, 60)
        result = json.loads(process.stdout.read() or "null")
        process.stdout.close()
        self.assertIsNotNone(result)
        self.assertEqual(result["wrong"], 0)
        self.assertGreater(result["reads"], 0)
        return result

    def survive(self, manager):
        self.addCleanup(lambda: manager.process.kill())
        manager.start()
        manager.run_until(lambda: manager.ready)
        process = self.reader()
        manager.run_until(lambda: "view" in manager.names())
        for sign in (signal.SIGKILL, signal.SIGHUP, signal.SIGKILL, signal.SIGSEGV):
            until = time.monotonic() + 0.3
            manager.run_until(lambda: time.monotonic() > until)
            manager.process.send_signal(sign)
            manager.run_until(lambda: manager.process.poll() is not None)
            while manager.take():
                pass
            manager.start()
            manager.run_until(lambda: manager.ready)
        until = time.monotonic() + 0.3
        manager.run_until(lambda: time.monotonic() > until)
        result = self.finish(manager, process)
        self.assertEqual(result["restarts"] > 0, True)

    def stop(self, manager):
        manager.process.terminate()
        manager.run_until(lambda: manager.process.poll() is not None)
        while manager.take():
            pass
        self.assertEqual(manager.process.returncode, 0)
        self.assertTrue(manager.stopping)
        self.assertEqual(manager.names(), [], "after a clean stop nothing is kept")

    def test_fdstore(self):
        manager = Systemd(self.folder.name, self.call)
        self.survive(manager)
        self.assertEqual([n for n in manager.names() if n in ("listen", "state", "pages", "words")],
                         ["listen", "pages", "state", "words"])
        self.stop(manager)

    def test_socket_activation(self):
        """The socket is there before the daemon, belongs to systemd, and stays when the daemon stops."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(self.path)
        listener.listen(10)
        early = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        early.connect(self.path)
        manager = Systemd(self.folder.name, self.call, listener)
        self.survive(manager)
        self.assertNotIn("listen", manager.names())
        early.close()
        self.stop(manager)
        self.assertTrue(os.path.exists(self.path))
        listener.close()

    def follow_forks(self):
        before, peer.FEATURES = peer.FEATURES, peer.FEATURES | peer.EVENT_FORK
        self.addCleanup(setattr, peer, "FEATURES", before)
        defaults = peer.userfaultfd.__defaults__
        self.addCleanup(setattr, peer.userfaultfd, "__defaults__", defaults)
        peer.userfaultfd.__defaults__ = (peer.FEATURES, *defaults[1:])

    def started(self):
        manager = Systemd(self.folder.name, self.call)
        self.addCleanup(lambda: manager.process.kill())
        manager.start()
        manager.run_until(lambda: manager.ready)
        return manager

    def restart(self, manager, change=lambda store: store):
        manager.process.kill()
        manager.run_until(lambda: manager.process.poll() is not None)
        while manager.take():
            pass
        manager.store = change(manager.store)
        manager.start()
        manager.run_until(lambda: manager.ready)

    def restart_with_other_records(self, manager):
        other = os.memfd_create("state")
        self.restart(manager, lambda store: [(name, other if name == "state" else fd) for name, fd in store])
        manager.run_until(lambda: "child" not in manager.names())

    @unittest.skipIf(os.geteuid(), "EVENT_FORK takes CAP_SYS_PTRACE")
    def test_children_of_another_version_are_barred(self):
        """Records that cannot be read: whose last userfaultfd the holder has, gets SIGBUS where it has not been."""
        self.follow_forks()
        manager = self.started()
        said, saying = os.pipe()
        held, letting = os.pipe()
        consumer = os.fork()
        if not consumer:  # this process is the manager
            peer.die_with_parent()
            view = View(Peer(self.path), "a")
            child = os.fork()
            if not child:
                peer.die_with_parent()
            else:
                os.write(saying, struct.pack("=i", child))
                signal.pause()
            os.read(held, 1)
            if not os.fork():  # its children are no better off
                view.read(201 * PAGE, PAGE)
                os._exit(0)
            os.write(saying, struct.pack("=i", os.waitstatus_to_exitcode(os.wait()[1])))
            view.read(200 * PAGE, PAGE)
            os._exit(0)
        manager.run_until(lambda: select.select([said], [], [], 0)[0])
        child, = struct.unpack("=i", os.read(said, 4))
        manager.run_until(lambda: "child" in manager.names())
        self.restart_with_other_records(manager)
        self.assertEqual(manager.names(), ["end", "end", "listen", "state", "stray"])
        self.restart(manager)
        self.assertEqual(manager.names(), ["end", "end", "listen", "state", "stray"])
        os.write(letting, b"1")
        manager.run_until(lambda: select.select([said], [], [], 0)[0])
        self.assertEqual(struct.unpack("=i", os.read(said, 4)), (-signal.SIGBUS,))

        def has_ended():
            if not os.path.exists(f"/proc/{child}"):
                return True
            with open(f"/proc/{child}/stat", encoding="ascii") as file:
                fields = file.read().rsplit(")", 1)[1].split()
            return fields[0] == "Z" and int(fields[-1]) & 127 == signal.SIGBUS

        manager.run_until(has_ended)
        manager.run_until(lambda: "stray" not in manager.names())
        os.kill(consumer, signal.SIGKILL)
        os.waitpid(consumer, 0)
        self.stop(manager)

    def fork_without_end(self, saying, most):
        """The parent goes on, near the limit by turns the child; the other says who it is, and whether it is a leaf."""
        number = 0
        while True:
            number += 1
            child = os.fork()
            if not child:
                peer.die_with_parent()
            parents_turn = number % 2 or number < most - 20  # long lines of descent are slow
            goes_on = number == most + 1 or bool(child) == bool(parents_turn)  # there both try, and neither may
            if not goes_on:
                os.write(saying, struct.pack("=ii", os.getpid(), not child))
                while True:
                    signal.pause()

    @unittest.skipIf(os.geteuid(), "EVENT_FORK takes CAP_SYS_PTRACE")
    def test_strays_that_fork_without_end(self):
        """However many children are left of another version, they are barred; who forks more than 1024 waits alone."""
        left, most, roles = 1030, 1024, 3
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
        self.follow_forks()
        manager = self.started()
        said, saying = os.pipe()
        starts = [os.pipe() for _ in range(roles)]
        consumer = os.fork()
        if not consumer:  # this process is the manager
            peer.die_with_parent()
            view = View(Peer(self.path), "a")
            children = []
            for role in range(left):
                children.append(os.fork())
                if children[-1]:
                    continue
                peer.die_with_parent()
                while role >= roles:
                    signal.pause()
                os.read(starts[role][0], 1)
                if role == roles - 1:
                    self.fork_without_end(saying, most)
                view.read((200 + role) * PAGE, PAGE)
                os._exit(0)
            for child in children[:roles - 1]:
                os.write(saying, struct.pack("=i", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
            signal.pause()
        self.addCleanup(lambda: consumer and os.kill(consumer, signal.SIGKILL))

        def say(role):
            os.write(starts[role][1], b"1")

        def expect_sigbus():
            manager.run_until(lambda: select.select([said], [], [], 0)[0])
            self.assertEqual(struct.unpack("=i", os.read(said, 4)), (-signal.SIGBUS,))

        manager.run_until(lambda: manager.names().count("child") == left, 60)
        self.restart_with_other_records(manager)
        self.assertEqual(manager.names().count("stray"), left)
        say(0)
        expect_sigbus()

        waiting = []

        def read_waiting():
            while select.select([said], [], [], 0)[0]:
                waiting.append(struct.unpack("=ii", os.read(said, 8)))
            return len(waiting)

        say(roles - 1)
        manager.run_until(lambda: read_waiting() >= most, 60)
        until = time.monotonic() + 1.5  # a look at who has ended lets nobody go on who should not
        manager.run_until(lambda: time.monotonic() > until)
        self.assertEqual(read_waiting(), most)
        say(1)
        expect_sigbus()
        leaves = [pid for pid, is_leaf in waiting if is_leaf]
        for pid in leaves[-2:]:
            os.kill(pid, signal.SIGKILL)
        manager.run_until(lambda: read_waiting() > most)
        os.kill(consumer, signal.SIGKILL)
        os.waitpid(consumer, 0)
        consumer = None
        manager.run_until(lambda: "stray" not in manager.names(), 60)
        self.stop(manager)

    def test_descriptors_that_do_not_fit(self):
        """What is kept under wrong names, or without its record, is dropped, and the daemon starts."""
        manager = Systemd(self.folder.name, self.call)
        ends = os.pipe()
        manager.store = [("view.3.1", ends[0]), ("session.0.77", os.dup(ends[1])), ("nonsense", ends[1])]
        memfd = os.memfd_create("state")
        manager.store.append(("state", memfd))
        self.addCleanup(lambda: manager.process.kill())
        manager.start()
        manager.run_until(lambda: manager.ready)
        manager.run_until(lambda: "nonsense" not in manager.names())
        self.assertEqual(manager.names(), ["end", "end", "listen", "state"])
        Peer(self.path).close()
        self.stop(manager)


if __name__ == "__main__":
    unittest.main(verbosity=2, warnings="ignore")
