#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs one example and compares what it prints with what is true. NAME PROGRAM."""
import os
import subprocess
import sys
import tempfile

PIECE = b"first line\nsecond line\n\nlast: no newline"


def output(program, *arguments):
    done = subprocess.run([program, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=50,
                          check=False)
    assert done.returncode == 0, done
    return done.stdout


def check(name, program):
    with tempfile.NamedTemporaryFile(dir="/var/tmp", prefix="minnow-example-") as file:
        file.write(PIECE * 100000)
        file.flush()
        if name == "read":
            assert output(program, file.name) == "300000 lines\n"
            absent = subprocess.run([program, "/nonexistent/file"], capture_output=True, text=True, check=False)
            assert absent.returncode == 1 and "/nonexistent/file" in absent.stderr, absent
        elif name == "callbacks":
            assert output(program) == "0 bytes were wrong\n"
        elif name == "prefetch":
            pages = (1 << 20) // os.sysconf("SC_PAGESIZE")
            assert f"{pages} of {pages} pages are resident\n" in output(program, file.name)
        else:
            raise AssertionError(f"no test for the example {name}")


if __name__ == "__main__":
    check(*sys.argv[1:])
