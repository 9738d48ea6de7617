#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The units of tools/systemd under systemd itself: started by their socket, killed, reloaded. COMMAND.

systemd is the first process of namespaces of its own (processes, mounts, control groups), which end with it. Consumers that
compare what they read are in there, too. Exits 77, and says why, where that cannot be had.
"""
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import peer

SYSTEMD = "/lib/systemd/systemd"
HERE = os.path.dirname(os.path.abspath(__file__))
UNITS = os.path.join(HERE, "../../tools/systemd")
SOCKET = "/run/minnow/socket"
PAGES = 16 << 8
KILLS, RELOADS, READERS = 5, 2, 2
SECONDS = 100  # that all tests may take


def cgroup_mount():
    with open("/proc/mounts", encoding="ascii") as file:
        return next((line.split()[1] for line in file if line.split()[2] == "cgroup2"), None)


def lacking():
    if peer.sanitized():
        return "the unit's sandbox does not fit a sanitizer"
    if os.geteuid() != 0:
        return "not root"
    missing = [tool for tool in (SYSTEMD, "unshare", "systemctl", "systemd-analyze") if not shutil.which(tool)]
    if missing:
        return f"{missing[0]} is not installed"
    if not cgroup_mount():
        return "control groups of version 2 are not mounted"
    probe = subprocess.run(["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--cgroup", "true"],
                           stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return probe.stderr.strip()


def make_units(folder, command):
    """Ours as they are but for where the command and its configuration lie, and what they name of systemd's own."""
    os.mkdir(folder)
    for name in os.listdir(UNITS):
        with open(os.path.join(UNITS, name), encoding="utf-8") as file:
            text = file.read().replace("/usr/bin/minnow", command)
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.write(text.replace("/etc/minnow.conf", os.path.join(os.path.dirname(folder), "minnow.conf")))
    for name in ("basic", "sysinit", "sockets", "shutdown", "multi-user", "umount", "exit"):
        with open(os.path.join(folder, f"{name}.target"), "w", encoding="utf-8") as file:
            file.write("[Unit]\nDefaultDependencies=no\n")
    with open(os.path.join(folder, "test.target"), "w", encoding="utf-8") as file:
        file.write("[Unit]\nDefaultDependencies=no\nRequires=minnow.socket\n")


def make_configuration(folder):
    config = {"socket": SOCKET, "pools": [{"name": "main", "budget": "8M"}],
              "images": [{"name": "disk", "uri": f"file://{peer.make_image(folder, PAGES >> 8)}"}]}
    with open(os.path.join(folder, "minnow.conf"), "w", encoding="utf-8") as file:
        json.dump(config, file)


# ---- outside

def remove_group(group):
    """With those within it, once the last of its processes has gone."""
    until = time.monotonic() + 10
    while os.path.exists(group) and time.monotonic() < until:
        for path, _, _ in os.walk(group, topdown=False):
            try:
                os.rmdir(path)
            except OSError:
                time.sleep(0.02)


def run_inside(folder, command):
    """This file again, as the first process of namespaces of its own; what its tests said, and whether all passed."""
    group = os.path.join(cgroup_mount(), f"minnow-systemd-{os.getpid()}")
    os.mkdir(group)

    def enter():
        with open(os.path.join(group, "cgroup.procs"), "w", encoding="ascii") as file:
            file.write("0")

    said, end = os.pipe()
    try:
        first = subprocess.Popen(["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--cgroup",
                                  sys.executable, __file__, command, "--inside", folder, str(end)],
                                 stdin=subprocess.DEVNULL, pass_fds=[end], preexec_fn=enter)
        os.close(end)
        # unshare has the other end too: it does not end when the tests do.
        told = select.select([said], [], [], SECONDS)[0]
        first.kill()
        first.wait()
        return bool(told) and os.read(said, 16) == b"passed"
    finally:
        os.close(said)
        remove_group(group)


def main():
    command = os.path.abspath(sys.argv[1])
    if why := lacking():
        print(why)
        return 77
    with tempfile.TemporaryDirectory(prefix="minnow-systemd-") as folder:
        os.chmod(folder, 0o755)
        make_units(os.path.join(folder, "units"), command)
        make_configuration(folder)
        return 0 if run_inside(folder, command) else 1


# ---- inside

def become_systemd(folder, end):
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/sys/fs/cgroup"], check=True)  # over version 1, where that is
    subprocess.run(["mount", "-t", "cgroup2", "cgroup2", "/sys/fs/cgroup"], check=True)
    os.makedirs("/run/systemd/system")
    if os.fork() == 0:
        run_tests(os.path.join(folder, "units"), end)
    os.close(end)
    os.execve(SYSTEMD, [SYSTEMD, "--system", "--unit=test.target", "--log-level=notice", "--show-status=no"],
              {**os.environ, "container": "test", "SYSTEMD_UNIT_PATH": os.path.join(folder, "units"),
               "SYSTEMD_LOG_TARGET": "console"})


def run_tests(units, end):
    verdict = "failed"
    try:
        Units.units = units
        program = unittest.main(argv=[sys.argv[0]], verbosity=2, exit=False)
        if program.result.wasSuccessful() and program.result.testsRun:
            verdict = "passed"
    finally:
        sys.stderr.flush()
        os.write(end, verdict.encode())
        os._exit(0)


def end_process(process):
    process.kill()
    process.communicate()


def show(what):
    done = subprocess.run(["systemctl", "show", "minnow.service", "-p", what, "--value"], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.strip()


class Units(unittest.TestCase):
    units = None

    def wait_for(self, what, condition, seconds=30):
        until = time.monotonic() + seconds
        while not condition():
            self.assertLess(time.monotonic(), until, what)
            time.sleep(0.02)

    def setUp(self):
        self.wait_for("systemd does not listen on the socket", lambda: os.path.exists(SOCKET))

    def start_reader(self, seed):
        reader = subprocess.Popen([sys.executable, os.path.join(HERE, "reader.py"), SOCKET, "disk", str(PAGES), str(seed)],
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.addCleanup(end_process, reader)
        self.assertEqual(reader.stdout.readline(), "ready\n")
        return reader

    def result_of(self, reader):
        said, _ = reader.communicate(timeout=60)
        return json.loads(said)

    def restart(self, disturb):
        """A new worker, after `disturb` has been done to the one that serves."""
        before = show("MainPID")
        disturb(int(before))
        self.wait_for("there is no new worker", lambda: show("MainPID") not in (before, "0"))
        self.wait_for("it does not serve", lambda: show("ActiveState") == "active")

    def test_the_units_are_understood(self):
        done = subprocess.run(["systemd-analyze", "verify", "--man=no", *(os.path.join(self.units, name) for name in (
            "minnow.service", "minnow.socket"))], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual((done.returncode, done.stdout + done.stderr), (0, ""))

    def test_killed_and_reloaded_under_readers(self):
        readers = [self.start_reader(seed) for seed in range(READERS)]
        self.wait_for("no descriptor is with systemd", lambda: int(show("NFileDescriptorStore") or 0) > READERS)
        for _ in range(KILLS):
            self.restart(lambda pid: os.kill(pid, signal.SIGKILL))
        self.assertEqual(show("NRestarts"), str(KILLS))
        for _ in range(RELOADS):
            self.restart(lambda _: subprocess.run(["systemctl", "reload", "minnow.service"], stdin=subprocess.DEVNULL, timeout=30,
                                                  check=True))
        time.sleep(0.3)  # they read of the last worker, too
        for result in map(self.result_of, readers):
            self.assertEqual(result["wrong"], 0)
            self.assertGreater(result["reads"], 0)


if __name__ == "__main__":
    if "--inside" in sys.argv:
        become_systemd(sys.argv[3], int(sys.argv[4]))
    sys.exit(main())
