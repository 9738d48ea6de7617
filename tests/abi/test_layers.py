#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The shape of the sources: includes point only downwards, the pure layers know no system, files stay short. ROOT."""
import pathlib
import re
import sys
import unittest

ROOT = pathlib.Path(sys.argv.pop(1))
LINES_MAX = 600
HEADER_LINES_MAX = 900  # the one installed header: everything public is in it

# What a layer may include besides itself. The public header is open to all.
MAY_INCLUDE = {
    "base": set(),
    "sys": {"base"},
    "page": {"base"},
    "policy": {"base"},
    "store": {"base", "sys"},
    "engine": {"base", "sys", "page", "policy", "store"},
    "api": {"base", "sys", "page", "policy", "store", "engine"},
    "wire": {"base"},
    "client": {"base", "sys", "wire"},
    "daemon": {"base", "sys", "wire"},
}
# The two layers that run under the simulator as they are use the language's headers and nothing of the system.
PURE = {"page", "policy"}
PURE_HEADERS = {"assert.h", "errno.h", "inttypes.h", "limits.h", "stdalign.h", "stdarg.h", "stdatomic.h", "stdbool.h",
                "stddef.h", "stdint.h", "stdio.h", "stdlib.h", "stdnoreturn.h", "string.h", "xxhash.h"}
INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]', re.M)


def sources(*folders):
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".c", ".h"):
                yield path


def includes(path):
    return INCLUDE.findall(path.read_text(encoding="utf-8"))


class Layers(unittest.TestCase):
    def test_known_layers_only(self):
        found = {path.name for path in (ROOT / "src").iterdir() if path.is_dir()}
        self.assertEqual(found - set(MAY_INCLUDE), set(), "a new layer needs its row in this test")

    def test_downwards(self):
        checked = 0
        for path in sources("src"):
            layer = path.relative_to(ROOT / "src").parts[0]
            for quote, name in includes(path):
                if quote == "<" or name.startswith("minnow/"):
                    self.assertNotIn(name.split("/")[0], set(MAY_INCLUDE) - {"sys"}, f"{path}: <{name}>")
                    continue
                checked += 1
                target = name.split("/")[0]
                self.assertTrue((ROOT / "src" / name).exists(), f"{path}: include \"{name}\" from src/")
                self.assertTrue(target == layer or target in MAY_INCLUDE[layer], f"{path}: {layer} includes {name}")
        self.assertGreater(checked, 5)

    def test_pure_layers(self):
        for path in sources("src/page", "src/policy"):
            for quote, name in includes(path):
                if quote == "<":
                    self.assertIn(name, PURE_HEADERS, path)

    def test_engine_leaves_the_system_to_sys(self):
        forbidden = re.compile(r"^(sys/|linux/|pthread|unistd|fcntl|poll|signal|sched|liburing|numa|hugetlbfs)")
        for path in sources("src/engine", "src/api", "src/base"):
            for quote, name in includes(path):
                if quote == "<":
                    self.assertFalse(forbidden.match(name) and name != "sys/types.h", f"{path}: <{name}>")

    def test_command_is_public_only(self):
        for path in sources("tools", "docs/examples"):
            for quote, name in includes(path):
                if quote == '"':
                    self.assertTrue((path.parent / name).exists(), f"{path}: {name} is not its own")
                elif name.startswith("minnow/"):
                    self.assertEqual(name, "minnow/minnow.h", path)

    def test_first_line(self):
        for path in sources("include", "src", "tools", "tests", "bench", "docs"):
            first = path.read_text(encoding="utf-8").split("\n", 1)[0]
            self.assertIn("SPDX-License-Identifier: MIT", first, path)

    def test_files_stay_short(self):
        scripts = [path for path in (ROOT / "tools").iterdir() if path.is_file()]
        for path in [*sources("include", "src", "tools", "tests", "bench", "docs"), *scripts]:
            lines = path.read_text(encoding="utf-8").count("\n")
            most = HEADER_LINES_MAX if path.name == "minnow.h" else LINES_MAX
            self.assertLessEqual(lines, most, path)


if __name__ == "__main__":
    unittest.main(verbosity=2)
