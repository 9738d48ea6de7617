#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Installs into a scratch folder and builds and runs the examples there as a stranger would, by pkg-config.
ROOT BUILD."""
import os
import pathlib
import subprocess
import sys
import tempfile

import test_example

ROOT, BUILD = map(pathlib.Path, sys.argv[1:3])


def run(*command, **options):
    done = subprocess.run(list(map(str, command)), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
                          **options)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


def main():
    with tempfile.TemporaryDirectory(prefix="minnow-installed-") as scratch:
        scratch = pathlib.Path(scratch)
        run("meson", "install", "-C", BUILD, "--no-rebuild", "--quiet", "--destdir", scratch)
        pc_file = next(scratch.rglob("minnow.pc"))
        library = next(scratch.rglob("libminnow.so"))
        environment = dict(os.environ, PKG_CONFIG_PATH=str(pc_file.parent), LD_LIBRARY_PATH=str(library.parent))
        prefix = run("pkg-config", "--variable=prefix", "minnow", env=environment).strip()
        flags = run("pkg-config", "--cflags", "--libs", f"--define-variable=prefix={scratch}{prefix}", "minnow",
                    env=environment).split()
        assert f"-I{scratch}{prefix}/include" in flags, flags
        assert "-lminnow" in flags, flags

        for name in ("read", "callbacks", "prefetch"):
            program = scratch / name
            run(os.environ.get("CC", "cc"), "-Wall", "-Wextra", "-Werror", ROOT / f"docs/examples/{name}.c", "-o",
                program, *flags, "-pthread")
            wrapper = scratch / f"run-{name}"
            wrapper.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH={library.parent} exec {program} "$@"\n', encoding="utf-8")
            wrapper.chmod(0o755)
            test_example.check(name, wrapper)

        command = next(scratch.rglob("bin/minnow"))
        version = run("pkg-config", "--modversion", "minnow", env=environment)
        assert run(command, "--version", env=environment) == f"minnow {version}"
        assert "resident-thread" in run(next(scratch.rglob("bin/minnow-bench")), "list", env=environment)
        assert list(scratch.rglob("man3/mnw_pool_open.3*")), "the manual is installed"


if __name__ == "__main__":
    main()
