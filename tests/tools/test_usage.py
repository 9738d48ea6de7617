#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Wrong command lines are refused with status 2, a message on stderr that names the culprit, and nothing on stdout."""
import os
import tempfile
import unittest

import command


class Usage(unittest.TestCase):
    def setUp(self):
        self.file = tempfile.NamedTemporaryFile(prefix="minnow-usage-")
        self.file.write(os.urandom(100000))
        self.file.flush()

    def tearDown(self):
        self.file.close()

    def refused(self, culprit, *arguments):
        done = command.run(*arguments)
        self.assertEqual(done.returncode, 2, (arguments, done))
        self.assertEqual(done.stdout, "", arguments)
        self.assertIn(culprit, done.stderr, arguments)

    def test_no_command(self):
        self.refused("Usage", *[])

    def test_unknown_command(self):
        self.refused("'frobnicate'", "frobnicate")

    def test_unknown_options(self):
        self.refused("--frobnicate", "verify", self.file.name, "--frobnicate")
        self.refused("--frobnicate", "doctor", "--frobnicate")

    def test_missing_value(self):
        self.refused("--budget", "verify", self.file.name, "--budget")

    def test_which_file(self):
        self.refused("which file", "verify")
        self.refused("one too many", "verify", self.file.name, "another")
        self.refused("'x'", "doctor", "x")

    def test_bad_sizes(self):
        for size in ("", "x", "-1", "1.5G", "10Q", "99999999999999999999"):
            self.refused("--budget", "verify", self.file.name, "--budget", size)
        self.refused("--extent", "verify", self.file.name, "--extent", "many")

    def test_bad_numbers(self):
        for option in ("--readers", "--ops", "--threads"):
            for number in ("0", "-3", "x", "1.5", ""):
                self.refused(option, "verify", self.file.name, option, number)
        self.refused("--seed", "verify", self.file.name, "--seed", "x")
        self.refused("--readers", "verify", self.file.name, "--readers", "1025")

    def test_unknown_kinds(self):
        for option in ("--backing", "--pattern", "--numa", "--policy", "--io"):
            self.refused("unknown kind 'zebra'", "verify", self.file.name, option, "zebra")
        self.refused("hugetlb-1G", "verify", self.file.name, "--backing", "hugetlb")

    def test_bad_nodes(self):
        for nodes in ("x", "0-", "9-3", "63", "0:", "0:0", "0:256"):
            self.refused("node", "verify", self.file.name, "--numa", "bind", "--nodes", nodes)

    def test_bad_files(self):
        self.refused("No such file", "verify", self.file.name + ".absent")
        self.refused("directory", "verify", "/tmp")
        with tempfile.NamedTemporaryFile() as empty:
            self.refused("verify: opening the file", "verify", empty.name)

    def test_bad_pool(self):
        self.refused("opening the pool", "verify", self.file.name, "--budget", "1")
        self.refused("opening the pool", "verify", self.file.name, "--extent", "12345")

    def test_help_and_version(self):
        for arguments in (["--help"], ["verify", "--help"], ["doctor", "--help"]):
            done = command.run(*arguments)
            self.assertEqual(done.returncode, 0, done)
            self.assertIn("Usage", done.stdout)
        done = command.run("--version")
        self.assertRegex(done.stdout, r"^minnow \d+\.\d+\.\d+\n$")
        self.assertEqual(done.returncode, 0)


if __name__ == "__main__":
    command.main()
