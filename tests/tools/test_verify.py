#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""verify: right files pass in every pattern, and each thing that can go wrong shows in the status and the counts."""
import glob
import json
import os
import pty
import signal
import subprocess
import tempfile
import time
import unittest

import command

MIB = 1 << 20
PAGE = os.sysconf("SC_PAGESIZE")


class Verify(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        # an awkward name, and a length that ends inside a page
        cls.folder = tempfile.TemporaryDirectory(prefix="minnow verify %41?#-", dir="/var/tmp")
        cls.path = os.path.join(cls.folder.name, "data é.bin")
        cls.size = 24 * MIB + 777
        with open(cls.path, "wb") as file:
            file.write(os.urandom(cls.size))

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def verify(self, *arguments, status=0, path=None):
        done = command.run("verify", path or self.path, "--json", *arguments)
        self.assertEqual(done.returncode, status, done)
        return json.loads(done.stdout)

    def fine(self, *arguments):
        result = self.verify(*arguments)
        self.assertEqual((result["mismatches"], result["io_errors"]), (0, 0), result)
        return result

    def test_required_keys(self):
        result = self.fine("--budget", "8M")
        for key in ("pages_checked", "mismatches", "faults_minor", "faults_missing", "fills", "fill_bytes", "evictions",
                    "resident_bytes_max", "budget_bytes", "fault_ns_p50", "fault_ns_p99", "seconds", "io_errors",
                    "backing", "policy", "pattern", "readers", "seed"):
            self.assertIn(key, result)
        self.assertEqual(result["budget_bytes"], 8 * MIB)
        self.assertEqual(result["file_bytes"], self.size)
        self.assertEqual(result["backing"], "shmem")

    def test_replicas(self):
        """On one node they change nothing but what is refused; tests/tools/verify_nodes asks of several."""
        result = self.fine("--budget", "8M", "--readers", "3", "--replicas")
        self.assertEqual(result["pages_checked"], -(-self.size // PAGE))
        done = command.run("verify", self.path, "--replicas", "--numa", "interleave")
        self.assertEqual(done.returncode, 2, done)
        self.assertIn("MNW_NUMA_LOCAL", done.stderr)

    def test_once_through(self):
        result = self.fine("--budget", "8M", "--readers", "3")
        self.assertEqual(result["pages_checked"], -(-self.size // PAGE))
        self.assertGreaterEqual(result["fill_bytes"], self.size)
        self.assertGreater(result["evictions"], 0)
        # the law of the budget: at most one extent above, for each fault thread
        self.assertLessEqual(result["resident_bytes_max"], 8 * MIB + 64 * 1024)
        self.assertGreater(result["fault_ns_p99"], 0)
        self.assertLessEqual(result["fault_ns_p50"], result["fault_ns_p99"])

    def test_all_patterns_and_policies(self):
        for pattern in ("sequential", "uniform", "zipf"):
            for policy in ("s3fifo", "clock"):
                result = self.fine("--budget", "6M", "--pattern", pattern, "--policy", policy, "--ops", "30000",
                                   "--readers", "2")
                self.assertEqual(result["pages_checked"], 30000)
                self.assertEqual((result["pattern"], result["policy"]), (pattern, policy))

    def test_options_reach_the_pool(self):
        self.fine("--budget", "8M", "--io", "threads", "--ops", "5000")
        self.fine("--budget", "8M", "--direct", "--ops", "5000")
        self.fine("--budget", "8M", "--threads", "2", "--extent", "256K", "--ops", "5000")
        self.fine("--budget", "8M", "--numa", "bind", "--nodes", "0", "--ops", "5000")
        self.fine("--budget", "8M", "--numa", "interleave", "--ops", "5000")

    def test_one_byte_file(self):
        path = os.path.join(self.folder.name, "one")
        with open(path, "wb") as file:
            file.write(b"x")
        result = self.verify("--ops", "100", path=path)
        self.assertEqual((result["pages_checked"], result["mismatches"], result["io_errors"]), (100, 0, 0))

    def test_words(self):
        done = command.run("verify", self.path, "--budget", "8M")
        self.assertEqual(done.returncode, 0, done)
        self.assertIn("0 differed, 0 could not be read", done.stdout)
        self.assertEqual(done.stderr, "", "no progress bar without a terminal")

    def test_progress_bar_on_a_terminal(self):
        leader, follower = pty.openpty()
        process = subprocess.Popen([command.COMMAND, "verify", self.path, "--budget", "6M", "--pattern", "uniform",
                                    "--ops", "200000000"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=follower)
        os.close(follower)
        seen = b""
        while b"pages/s" not in seen:
            seen += os.read(leader, 4096)
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(timeout=60), 130)
        os.close(leader)
        self.assertIn(b"%", seen)

    def stopped(self, number):
        process = subprocess.Popen([command.COMMAND, "verify", self.path, "--json", "--budget", "6M", "--pattern",
                                    "uniform", "--ops", "2000000000"], stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        time.sleep(1)
        process.send_signal(number)
        out, _ = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 128 + number)
        result = json.loads(out)
        self.assertTrue(result["interrupted"])
        self.assertGreater(result["pages_checked"], 0)
        self.assertEqual((result["mismatches"], result["io_errors"]), (0, 0))

    def test_interrupt(self):
        self.stopped(signal.SIGINT)

    def test_terminate(self):
        self.stopped(signal.SIGTERM)

    def while_running(self, path, change, *arguments):
        """The result of a long run during which `change` was done to the file."""
        process = subprocess.Popen([command.COMMAND, "verify", path, "--json", *arguments], stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        time.sleep(1)
        change()
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=100)
        self.assertEqual(process.returncode, 130)
        return json.loads(out)

    def copy(self, name):
        path = os.path.join(self.folder.name, name)
        with open(self.path, "rb") as source, open(path, "wb") as target:
            target.write(source.read())
        return path

    def test_differences_are_found(self):
        # All of it is resident, so the cache still has the old byte when the ordinary read gets the new one.
        path = self.copy("changes")
        at = 5 * MIB + 1234

        def change():
            with open(path, "r+b") as file:
                file.seek(at)
                byte = file.read(1)[0]
                file.seek(at)
                file.write(bytes([byte ^ 0xFF]))

        result = self.while_running(path, change, "--budget", "64M", "--ops", "2000000000")
        self.assertGreater(result["mismatches"], 0)
        self.assertTrue(result["file_changed"])
        self.assertEqual(result["examples"][0]["offset"], at)
        self.assertEqual(result["examples"][0]["expected"] ^ result["examples"][0]["found"], 0xFF)

    def wait_for_faults(self, pid):
        """Until the process serves faults: from then on it reads."""
        for _ in range(1000):
            for task in glob.glob(f"/proc/{pid}/task/*/comm"):
                try:
                    with open(task, encoding="ascii") as comm:
                        if comm.read().startswith("mnw-fault"):
                            return
                except OSError:
                    pass
            time.sleep(0.01)
        self.fail("no fault thread")

    def test_differences_are_status_1(self):
        path = self.copy("changes once")
        # Many rounds over the file: far more work than there is before it is stopped, in each build.
        operations = "3000000" if os.environ.get("MINNOW_SANITIZE", "none") == "none" else "1000000"
        process = subprocess.Popen([command.COMMAND, "verify", path, "--budget", "64M", "--ops", operations],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.wait_for_faults(process.pid)
        time.sleep(0.1)
        process.send_signal(signal.SIGSTOP)
        with open(path, "r+b") as file:
            for offset in range(0, self.size, PAGE):
                file.seek(offset)
                file.write(b"changed!")
        process.send_signal(signal.SIGCONT)
        out, _ = process.communicate(timeout=100)
        self.assertEqual(process.returncode, 1, out)
        self.assertIn("the file changed", out)

    def test_shrunk_file_is_an_io_error(self):
        path = self.copy("shrinks")
        result = self.while_running(path, lambda: os.truncate(path, 4 * MIB), "--budget", "4M", "--pattern", "uniform",
                                    "--ops", "2000000000")
        self.assertGreater(result["io_errors"], 0)
        self.assertEqual(result["mismatches"], 0, result)
        for example in result["examples"]:
            self.assertTrue(example["unreadable"])
            self.assertGreaterEqual(example["offset"], 4 * MIB - PAGE)


if __name__ == "__main__":
    command.main()
