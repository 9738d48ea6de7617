#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The manual: a page for every call, every page whole and clean, and the README's example is the tested one. ROOT."""
import pathlib
import re
import shutil
import subprocess
import sys
import unittest

ROOT = pathlib.Path(sys.argv.pop(1))
MAN = ROOT / "docs/man"
# What the page of a call must say.
SECTIONS = ["NAME", "LIBRARY", "SYNOPSIS", "DESCRIPTION", "RETURN VALUES", "ERRORS", "SYSTEM CALLS", "SAFETY", "SEE ALSO"]


def read(path):
    return path.read_text(encoding="utf-8")


def calls():
    return sorted(set(re.findall(r"MNW_PUBLIC[^;(]*?(mnw_\w+)\(", read(ROOT / "include/minnow/minnow.h"))))


def resolved(path):
    """The page that a link page leads to."""
    link = re.match(r"\.so man\d/(\S+)\n", read(path))
    return MAN / link.group(1) if link else path


def pages():
    return sorted(MAN.glob("*.[1-9]"))


class Manual(unittest.TestCase):
    def test_every_call_has_its_page(self):
        self.assertGreater(len(calls()), 20)
        for call in calls():
            page = MAN / f"{call}.3"
            self.assertTrue(page.exists(), f"docs/man/{call}.3 is missing")
            text = read(resolved(page))
            self.assertIn(f".Nm {call}", text, f"{page}: not in NAME")
            self.assertRegex(text, rf"\.F[no] \"?{call}\b", f"{page}: not in SYNOPSIS")
            for section in SECTIONS:
                self.assertIn(f"\n.Sh {section}\n", text, f"{page}: no {section}")

    def test_synopsis_is_the_header(self):
        """Parameter names and types of every .Fn are those of the declaration."""
        header = re.sub(r"\s+", " ", read(ROOT / "include/minnow/minnow.h"))
        for call in calls():
            declaration = re.search(rf"MNW_PUBLIC ([^;]*?){call}\((.*?)\);", header)
            parameters = declaration.group(2)
            text = read(resolved(MAN / f"{call}.3"))
            function = re.search(rf'\.Fn {call}((?: "[^"]*")+)', text)
            self.assertIsNotNone(function, call)
            written = ", ".join(re.findall(r'"([^"]*)"', function.group(1)))
            self.assertEqual(written, parameters, call)

    def test_no_page_without_a_call(self):
        for page in MAN.glob("*.3"):
            self.assertIn(page.stem, calls(), page)

    def test_other_pages(self):
        for name in ("minnow.1", "minnow-verify.1", "minnow-doctor.1", "minnow-bench.1", "minnow-serve.1", "minnow-stat.1", "minnow-top.1", "minnow.7"):
            self.assertTrue((MAN / name).exists(), name)

    def test_all_are_installed(self):
        listed = set(re.findall(r"'([\w-]+\.\d)'", read(MAN / "meson.build")))
        self.assertEqual(listed, {page.name for page in pages()})

    def test_references_lead_somewhere(self):
        for page in pages():
            for name, section in re.findall(r"^\.Xr (\S+) (\d)", read(page), re.M):
                if name.startswith(("mnw_", "minnow")):
                    self.assertTrue((MAN / f"{name}.{section}").exists(), f"{page}: {name}({section})")

    def test_lint(self):
        if not shutil.which("mandoc"):
            self.skipTest("no mandoc here")
        whole = [page for page in pages() if resolved(page) == page]
        self.assertGreater(len(whole), 4)
        done = subprocess.run(["mandoc", "-Tlint", "-Wwarning", *whole], capture_output=True, text=True, check=False)
        self.assertEqual((done.returncode, done.stdout), (0, ""))

    def test_options_are_documented(self):
        for command, least in (("verify", 10), ("stat", 4), ("top", 3)):
            options = re.findall(r"^\s*\{\"([a-z-]+)\", (?:0|'.'), POPT", read(ROOT / f"tools/minnow/{command}.c"), re.M)
            self.assertGreater(len(options), least, command)
            text = read(MAN / f"minnow-{command}.1")
            for option in options:
                self.assertIn(f"-{option}", text.replace("\\-", "-"), option)

    def test_bench_options_are_documented(self):
        options = re.findall(r'\{"([a-z-]+)", (?:0|\'.\'), POPT', read(ROOT / "bench/main.c"))
        self.assertGreater(len(options), 7)
        text = read(MAN / "minnow-bench.1").replace("\\-", "-")
        for option in options:
            self.assertIn(f"-{option}", text, option)

    def test_serve_options_and_keys_are_documented(self):
        text = read(MAN / "minnow-serve.1").replace("\\-", "-")
        options = re.findall(r'^\s*\{"([a-z-]+)", .*POPT', read(ROOT / "tools/minnow/serve.c"), re.M)
        keys = set()
        for array in re.findall(r"keys\[\] = \{(.*?)\};", read(ROOT / "src/daemon/config.c"), re.S):
            keys |= set(re.findall(r'"(\w+)"', array))
        self.assertGreater(len(options), 5)
        self.assertGreater(len(keys), 30)
        for word in [*(f"-{option}" for option in options), *keys]:
            self.assertRegex(text, rf"(^|[ ,]){re.escape(word)}\b", word)

    def test_readme_shows_the_tested_example(self):
        example = read(ROOT / "docs/examples/read.c")
        body = example[example.index("#include"):]
        self.assertIn(body, read(ROOT / "README.md"))
        main = body[body.index("int main"):]
        self.assertLessEqual(len([line for line in main.splitlines() if line.strip()]), 20)


if __name__ == "__main__":
    unittest.main(verbosity=2)
