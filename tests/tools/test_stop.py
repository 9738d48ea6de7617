#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""minnow verify ends when it is told to, also while a page does not come: memory that cannot be given back. COMMAND."""
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

COMMAND = sys.argv.pop(1)
GET_MEMPOLICY = {"x86_64": 239, "aarch64": 236}.get(os.uname().machine)
FALLOCATE = {"x86_64": 285, "aarch64": 47}.get(os.uname().machine)


class Filter(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32)]


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_uint16), ("filters", ctypes.POINTER(Filter))]


def refuse(call):
    """A seccomp filter: this call is EPERM."""
    libc = ctypes.CDLL(None, use_errno=True)
    filters = (Filter * 4)(Filter(0x20, 0, 0, 0), Filter(0x15, 0, 1, call), Filter(0x06, 0, 0, 0x00050001),
                           Filter(0x06, 0, 0, 0x7fff0000))
    program = Program(4, filters)
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(program)):
        raise OSError(ctypes.get_errno(), "prctl")


@unittest.skipUnless(FALLOCATE, "the number of fallocate(2) is not known for this machine")
class Stop(unittest.TestCase):
    def setUp(self):
        self.file = tempfile.NamedTemporaryFile(prefix="minnow-stop-")
        self.addCleanup(self.file.close)
        self.file.write(os.urandom(8 << 20))
        self.file.flush()

    def stuck(self, *arguments):
        """A verify that waits for memory that cannot be given back: some of it comes with bytes that are written."""
        process = subprocess.Popen([COMMAND, "verify", self.file.name, "--budget", "4M", *arguments],
                                   preexec_fn=lambda: refuse(FALLOCATE), stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        before, until = -1, time.monotonic() + 30
        while process.poll() is None and (before < 2 << 20 or self.read(process) > before + 65536):  # events are read, too
            self.assertLess(time.monotonic(), until, "it reads on")
            before = self.read(process)
            time.sleep(1)
        self.assertIsNone(process.poll(), "it was to wait for a page")
        return process

    def read(self, process):
        """Bytes read, the file's among them: some 4 MiB, the budget, when it is stuck."""
        with open(f"/proc/{process.pid}/io", encoding="ascii") as file:
            return int(file.read().split()[1])

    def test_first_signal(self):
        process = self.stuck("--readers", "2", "--json")
        process.send_signal(signal.SIGINT)
        begin = time.monotonic()
        out, said = process.communicate(timeout=30)
        self.assertLess(time.monotonic() - begin, 15)
        self.assertEqual(process.returncode, 130)
        self.assertIn("readers wait for a page", said)
        result = json.loads(out)
        self.assertTrue(result["interrupted"])
        self.assertGreater(result["readers_waiting"], 0)
        self.assertGreater(result["pages_checked"], 0)

    def test_container_without_userfaultfd(self):
        """Docker's default filter: doctor says that no pool could be opened, and names no setting that would not help."""
        def confine():
            if not os.geteuid():
                os.setgroups([])
                os.setuid(65534)  # nobody, who may not open /dev/userfaultfd
            refuse({"x86_64": 323, "aarch64": 282}[os.uname().machine])

        with tempfile.TemporaryDirectory(prefix="minnow-doctor-") as folder:
            os.chmod(folder, 0o755)
            command = shutil.copy(COMMAND, folder)
            done = subprocess.run([command, "doctor", "--json"], preexec_fn=confine, capture_output=True, text=True, timeout=30,
                                  check=False)
        findings = {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}
        if findings["uffd-device"]["ok"]:
            self.skipTest("everybody may open /dev/userfaultfd here")
        self.assertEqual(done.returncode, 1)
        self.assertEqual([name for name, finding in findings.items() if name.startswith("backing-") and finding["ok"]], [])
        for name in ("userfaultfd", "uffd-syscall", "uffd-user-only", "uffd-kernel-faults"):
            self.assertIn("seccomp", findings[name]["fix"], name)
        self.assertNotIn("5.11", findings["uffd-user-only"]["found"])

    def test_container_without_numa_calls(self):
        """Their filters refuse get_mempolicy(2); that is no reason to write to the standard error."""
        done = subprocess.run([COMMAND, "doctor"], preexec_fn=lambda: refuse(GET_MEMPOLICY), capture_output=True, text=True,
                              timeout=30, check=False)
        self.assertEqual(done.stderr, "")
        self.assertIn("numa", done.stdout)

    def test_second_signal(self):
        process = self.stuck()
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        begin = time.monotonic()
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(30), 143)
        self.assertLess(time.monotonic() - begin, 1.5)
        process.communicate()

    def test_ignored_signal_stays_ignored(self):
        done = subprocess.run(["sh", "-c", 'trap "" INT; "$0" verify "$1" --ops 400000 --json & '
                               'sleep 0.2; kill -INT $!; wait $!', COMMAND, self.file.name], capture_output=True, text=True,
                              timeout=60, check=False)
        self.assertFalse(json.loads(done.stdout)["interrupted"], done.stderr)
        self.assertEqual(done.returncode, 0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
