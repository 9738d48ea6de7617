#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""minnow stat on what a daemon said: the tables hold its numbers, and wrong uses are refused. SAMPLE COMMAND."""
import json
import subprocess
import sys
import tempfile
import unittest

import command

SAMPLE = sys.argv.pop(1)


def parts(text):
    """The tables of the text, each a list of lines."""
    return [part.splitlines() for part in text.split("\n\n")]


class Stat(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.text = subprocess.run([SAMPLE, "json"], stdout=subprocess.PIPE, check=True, timeout=30).stdout
        cls.state = json.loads(cls.text)
        cls.file = tempfile.NamedTemporaryFile(prefix="minnow-stat-")
        cls.file.write(cls.text)
        cls.file.flush()

    @classmethod
    def tearDownClass(cls):
        cls.file.close()

    def test_tables(self):
        done = command.run("stat", "--file", self.file.name)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        head, pools, where, nodes, images, views = parts(done.stdout)
        self.assertIn("pid 99", head[0])
        self.assertIn("restarts 4", head[0])
        self.assertEqual([line.split()[0] for line in pools], ["POOL", "main", "huge"])
        self.assertIn("hugetlb-2M", pools[2])
        self.assertEqual(len([line for line in where if ":" not in line]), 1 + 4 + 1)
        self.assertRegex(where[2], r"^main +1 +931\.3 GiB +\d+% +7 +12 +1 +1\.8 TiB +976\.6 KiB +2$")
        self.assertRegex(where[4], r"^huge .* +3! +931\.3 GiB .* 0$")
        self.assertIn('pool huge "one"\\ has pages on node 3, which is none of its nodes', where[5:])
        self.assertTrue(any("kernel.numa_balancing is" in line for line in where[5:]))
        self.assertTrue(any("redirected its memory by mbind(2)" in line for line in where[5:]))
        self.assertEqual(len(nodes), 1 + 3 * 4)
        self.assertRegex(nodes[2], r"^main +0 +fill +1\.0k +4\.2 ms")
        self.assertEqual(len(images), 1 + 3)
        self.assertIn("line?break", images[2])
        self.assertEqual(len(views), 1 + 3)
        self.assertRegex(views[2], r"0xffffffffff000 .* write,record$")
        for table in (pools, where[:5], nodes, images):  # columns stand under their heads
            self.assertEqual({len(line) for line in table}, {len(table[0])})

    def test_rates_are_asked_for(self):
        done = command.run("stat", "--file", self.file.name, "--seconds", "0.1")
        self.assertEqual(done.returncode, 0)
        self.assertIn("FAULTS/s", done.stdout)
        self.assertNotIn("FAULTS/s", command.run("stat", "--file", self.file.name).stdout)

    def test_json_is_passed_on(self):
        done = command.run("stat", "--file", self.file.name, "--json")
        self.assertEqual(json.loads(done.stdout), self.state)

    def test_refused(self):
        for culprit, arguments in (("exclude", ["--json", "--prometheus"]), ("exclude", ["--file", "a", "--socket", "b"]),
                                   ("needs a daemon", ["--file", "a", "--prometheus"]), ("'x'", ["--seconds", "x"]),
                                   ("'-1'", ["--seconds", "-1"]), ("'nan'", ["--seconds", "nan"]),
                                   ("--frob", ["--frob"]), ("'more'", ["more"])):
            done = command.run("stat", *arguments)
            self.assertEqual((done.returncode, done.stdout), (2, ""), arguments)
            self.assertIn(culprit, done.stderr, arguments)

    def test_nothing_to_read(self):
        for path, says in (("/nowhere/x", "No such file"), ("/dev/null", "nothing")):
            done = command.run("stat", "--file", path)
            self.assertEqual((done.returncode, done.stdout), (1, ""))
            self.assertIn(says, done.stderr)
        with tempfile.NamedTemporaryFile(prefix="minnow-stat-") as file:
            file.write(self.text[:-20])
            file.flush()
            done = command.run("stat", "--file", file.name)
            self.assertEqual((done.returncode, done.stdout), (1, ""))
            self.assertIn("no JSON object", done.stderr)

    def test_no_daemon(self):
        done = command.run("stat", "--socket", "/nowhere/socket")
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("/nowhere/socket", done.stderr)

    def test_full_disk(self):
        with open("/dev/full", "w", encoding="utf-8") as full:
            done = subprocess.run([command.COMMAND, "stat", "--file", self.file.name], stdout=full, timeout=30, check=False)
        self.assertEqual(done.returncode, 1)


if __name__ == "__main__":
    command.main()
