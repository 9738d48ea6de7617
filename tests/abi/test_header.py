#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Every header compiles alone: the public one in C and C++ by both compilers, the others in C. ROOT."""
import pathlib
import shutil
import subprocess
import sys
import unittest

ROOT = pathlib.Path(sys.argv.pop(1))
STRICT = ["-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-I", ROOT / "include"]


def compiles(compiler, options, text):
    done = subprocess.run([*compiler, *map(str, options), "-"], input=text, text=True, capture_output=True, check=False)
    return done.returncode == 0, done.stderr


class Headers(unittest.TestCase):
    def public(self, compiler, language, standards):
        if not shutil.which(compiler):
            self.skipTest(f"no {compiler} here")
        for standard in standards:
            # Included twice: it must guard itself too.
            good, errors = compiles([compiler, "-x", language], ["-std=" + standard, "-pedantic", *STRICT],
                                    "#include <minnow/minnow.h>\n#include <minnow/minnow.h>\n")
            self.assertTrue(good, f"{compiler} -std={standard}: {errors}")

    def test_public_gcc(self):
        self.public("gcc", "c", ["c99", "c11", "gnu17"])

    def test_public_clang(self):
        self.public("clang", "c", ["c99", "c11", "gnu17"])

    def test_public_gxx(self):
        self.public("g++", "c++", ["c++11", "c++17", "c++20"])

    def test_public_clangxx(self):
        self.public("clang++", "c++", ["c++11", "c++17", "c++20"])

    def test_internal(self):
        headers = sorted((ROOT / "src").rglob("*.h")) + sorted((ROOT / "tools").rglob("*.h"))
        self.assertGreater(len(headers), 5)
        for header in headers:
            good, errors = compiles(["gcc", "-x", "c"], ["-std=gnu17", "-D_GNU_SOURCE", "-I", ROOT / "src", *STRICT],
                                    f'#include "{header}"\n')
            self.assertTrue(good, f"{header}: {errors}")


if __name__ == "__main__":
    unittest.main(verbosity=2)
