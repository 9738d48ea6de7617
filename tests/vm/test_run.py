# SPDX-License-Identifier: MIT
"""tests/vm/run: what a program in a guest sees, and what its caller gets to see of it."""
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import jobs

RUN = [sys.executable, os.path.join(os.path.dirname(os.path.realpath(__file__)), "run")]
NODES = "for n in /sys/devices/system/node/node[0-9]*; do "


def run(*words, script=None, timeout=120, **options):
    """Runs a program in a guest, or a script for the shell."""
    return subprocess.run([*RUN, *words, "--", *(("/bin/sh", "-c", script) if script else ())], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=timeout, check=False, **options)


class Run(unittest.TestCase):
    def test_streams_and_status_pass_through(self):
        done = run(script="printf 'said\\nand no end'; echo complained >&2; exit 42")
        self.assertEqual((done.returncode, done.stdout), (42, "said\nand no end"), done.stderr)
        self.assertIn("complained\n", done.stderr)

    def test_the_machine_is_what_was_asked_for(self):
        done = run("--nodes", "4", "--node-memory", "256M", "--huge-pages", "10", "--distance", "0-3=42", "--kernel", "newest",
                   "--env", "MNW_A=a b", script=NODES + "cat $n/distance $n/cpulist $n/hugepages/hugepages-2048kB/nr_hugepages"
                   "; done; echo $MNW_A; uname -r; grep MemTotal /sys/devices/system/node/node3/meminfo; kill -SEGV $$")
        self.assertEqual(done.returncode, 128 + 11, "a signal is a status too")
        *lines, name, release, total = done.stdout.splitlines()
        self.assertEqual(lines, ["10 20 20 42", "0", "10", "20 10 20 20", "1", "10", "20 20 10 20", "2", "10", "42 20 20 10",
                                 "3", "10"], done.stderr)
        self.assertEqual(name, "a b")
        self.assertGreaterEqual([int(part) for part in release.split(".")[:2]], [6, 12])
        self.assertTrue(200 << 10 < int(total.split()[-2]) <= 256 << 10, total)

    def test_what_it_writes_is_shown_when_it_writes_it_and_nothing_is_left_of_a_guest(self):
        with (tempfile.TemporaryDirectory() as folder,
              subprocess.Popen([*RUN, "--", "/bin/sh", "-c", "echo first; sleep 1000"], stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                               env={**os.environ, "TMPDIR": folder}) as process):
            self.assertEqual(process.stdout.readline(), "first\n")
            self.assertIsNone(process.poll())
            with open(f"/proc/{process.pid}/task/{process.pid}/children", encoding="ascii") as children:
                emulator = children.read().split()
            self.assertEqual(len(os.listdir(folder)), 1)
            process.terminate()
            self.assertEqual(process.wait(20), 128 + signal.SIGTERM)
            self.assertEqual(os.listdir(folder), [], "what it laid down for its guest is still there")
        self.assertEqual(len(emulator), 1)
        deadline = time.monotonic() + 10
        while os.path.exists(f"/proc/{emulator[0]}"):
            self.assertLess(time.monotonic(), deadline, "QEMU outlived tests/vm/run")
            time.sleep(0.01)

    def test_a_guest_that_hangs_is_ended_and_its_console_shown(self):
        done = run("--timeout", "2", script="echo the last words >&2; sleep 1000")
        self.assertEqual(done.returncode, 124)
        self.assertRegex(done.stderr, r"ran /bin/sh -c .* for too long and was ended\n---- console, the end of it:\n"
                                      r"(?s:.*)the last words\n")

    def test_a_guest_that_dies_is_no_result(self):
        done = run(script="echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger")
        self.assertEqual(done.returncode, 125)
        self.assertRegex(done.stderr, r"the guest ended while it ran /bin/sh(?s:.*)sysrq")

    def test_too_few_huge_pages_are_an_error(self):
        done = run("--node-memory", "256M", "--huge-pages", "120", script="echo ran")
        self.assertEqual((done.returncode, done.stdout), (125, ""))
        self.assertRegex(done.stderr, r"the guest lacks \d+ of 120 huge pages of 2 MiB on node 0")

    def test_bad_input_is_refused_by_name(self):
        for words, named in [(["--nodes", "0"], "whole number from 1"), (["--kernel", "7"], "invalid choice: '7'"),
                             (["--arch", "s390x"], "invalid choice: 's390x'"), (["--kernel", "16k"], "is for arm64"),
                             (["--kernel", "16k", "--arch", "arm64", "--huge-pages", "1"], "no huge pages of 2 MiB"),
                             (["--node-memory", "5"], "no size such as"), (["--distance", "0-1=21"], "the nodes 0 to 0"),
                             (["--distance", "0-0=21"], "two nodes and a distance"), (["--env", "A"], "not NAME=VALUE"),
                             (["--file", "/no/such"], "no such file"), (["--huge-pages", "256"], "leave nothing"),
                             (["--node", "2"], "unrecognized arguments: --node")]:
            with self.subTest(words=words):
                done = run(*words, script="echo ran")
                self.assertEqual((done.returncode, done.stdout), (2, ""))
                self.assertIn(named, done.stderr)
        self.assertIn("write it behind --", run().stderr)
        done = subprocess.run([*RUN, "--", "/no/program"], stderr=subprocess.PIPE, text=True, check=False)
        self.assertEqual(done.returncode, 2)
        self.assertIn("/no/program", done.stderr)

    def test_without_qemu_it_is_skipped(self):
        done = run(script="echo ran", env={"PATH": "/nonexistent"})
        self.assertEqual(done.returncode, 77, done.stderr)
        self.assertIn("qemu-system-x86_64 is not installed", done.stderr)


if __name__ == "__main__":
    if why := jobs.lacking():
        print(why)
        sys.exit(77)
    unittest.main(verbosity=2)
