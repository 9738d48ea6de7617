#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The library exports what its map lists, which is what the header declares: no more, no less. ROOT LIBRARY."""
import pathlib
import re
import subprocess
import sys
import unittest

ROOT, LIBRARY = map(pathlib.Path, (sys.argv.pop(1), sys.argv.pop(1)))


def declared():
    text = (ROOT / "include/minnow/minnow.h").read_text(encoding="utf-8")
    return set(re.findall(r"MNW_PUBLIC[^;(]*?(mnw_\w+)\(", text))


def mapped():
    text = (ROOT / "src/libminnow.map").read_text(encoding="utf-8")
    return re.findall(r"^\s+(mnw_\w+);", text, re.M)


def exported():
    out = subprocess.run(["nm", "-D", "--defined-only", LIBRARY], capture_output=True, text=True, check=True).stdout
    return [line.split() for line in out.splitlines()]


class Symbols(unittest.TestCase):
    def test_map_is_header(self):
        self.assertGreater(len(declared()), 20)
        self.assertEqual(set(mapped()), declared())
        self.assertEqual(sorted(mapped()), mapped(), "the map is sorted, and names each once")

    def test_library_is_map(self):
        functions = {name.split("@")[0] for _, kind, name in exported() if kind == "T"}
        self.assertEqual(functions, set(mapped()))

    def test_nothing_else_is_exported(self):
        others = [name for _, kind, name in exported() if kind not in "TA"]
        self.assertEqual(others, [])

    def test_all_are_versioned(self):
        for _, kind, name in exported():
            if kind == "T":
                self.assertRegex(name, r"@@MINNOW_\d+\.\d+$")

    def test_soname(self):
        out = subprocess.run(["readelf", "-d", LIBRARY], capture_output=True, text=True, check=True).stdout
        self.assertIn("[libminnow.so.0]", out)


if __name__ == "__main__":
    unittest.main(verbosity=2)
