#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A result that cannot be written is a failure, and is said to be one, by every command; and closed descriptors stay so."""
import json
import os
import subprocess
import sys
import tempfile
import unittest

COMMAND, BENCH = sys.argv.pop(1), sys.argv.pop(1)
SANDBOX = "" if os.environ.get("MINNOW_SANITIZE", "none") == "none" else "--no-sandbox"
SAMPLE = {"metrics_version": 1, "version": "0", "pools": [], "images": [], "views": []}


class Output(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="minnow-output-")
        cls.file = os.path.join(cls.folder.name, "file")
        with open(cls.file, "wb") as file:
            file.write(os.urandom(300000))
        cls.state = os.path.join(cls.folder.name, "state")
        with open(cls.state, "w", encoding="utf-8") as file:
            json.dump(SAMPLE, file)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def calls(self):
        minnow = [["verify", self.file], ["verify", self.file, "--json"], ["doctor"], ["doctor", "--json"], ["--help"],
                  ["--version"], ["verify", "--help"], ["serve", "--help"], ["run", "--help"], ["stat", "--file", self.state],
                  ["stat", "--file", self.state, "--json"]]
        bench = [["list"], ["list", "--json"], ["--help"], ["--version"], ["run", "engine-open", "--smoke"],
                 ["run", "engine-open", "--smoke", "--json"]]
        yield from ([COMMAND, *call] for call in minnow)
        yield from ([BENCH, *call] for call in bench)

    def test_full_device(self):
        for call in self.calls():
            with open("/dev/full", "wb") as full:
                done = subprocess.run(call, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
            self.assertNotIn(done.returncode, (0, 77), call)
            self.assertIn("writing the result to the standard output: No space left on device", done.stderr, call)

    def test_closed(self):
        for call in self.calls():
            done = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *call], stderr=subprocess.PIPE, text=True, timeout=60,
                                  check=False)
            self.assertNotIn(done.returncode, (0, 77), call)
            self.assertIn("writing the result to the standard output: Bad file descriptor", done.stderr, call)

    def test_what_no_daemon_said(self):
        path = os.path.join(self.folder.name, "other")
        for text in ("{}", "nonsense"):
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
            for more in ([], ["--json"]):
                done = subprocess.run([COMMAND, "stat", "--file", path, *more], capture_output=True, text=True, check=False)
                self.assertEqual((done.returncode, done.stdout), (1, ""), done)

    def test_other_failures_keep_their_status(self):
        with open("/dev/full", "wb") as full:
            done = subprocess.run([COMMAND, "verify", "/nonexistent"], stdout=full, stderr=subprocess.PIPE, check=False)
        self.assertEqual(done.returncode, 2)

    def test_no_file_gets_a_standard_number(self):
        """Its log would go into that file."""
        path = os.path.join(self.folder.name, "socket")
        look = f'''
            "$0" serve --alone {SANDBOX} --socket {path} --budget 8M --image a={self.file} <&- >&- 2>&- &
            for i in $(seq 200); do [ -e {path} ] && break; sleep 0.05; done
            for n in 0 1 2; do readlink /proc/$!/fd/$n; done
            kill $!; wait $!'''
        done = subprocess.run(["bash", "-c", look, COMMAND], capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(done.stdout.split(), ["/dev/null"] * 3, done)
        self.assertEqual(done.returncode, 0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
