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
        elif name == "working_set":
            with tempfile.TemporaryDirectory(prefix="minnow-example-") as folder:
                path = os.path.join(folder, "x.mws")
                first, second = output(program, file.name, path), output(program, file.name, path)
                assert first.endswith("some had to be waited for\n"), first
                assert second.endswith("none had to be waited for\n"), second
                assert first.split(";")[:2] == second.split(";")[:2], (first, second)
                assert os.listdir(folder) == ["x.mws"]
                with open(path, "r+b") as broken:
                    broken.write(b"?")
                done = subprocess.run([program, file.name, path], capture_output=True, text=True, check=False)
                assert done.returncode == 1 and "working set" in done.stderr, done
        else:
            raise AssertionError(f"no test for the example {name}")


if __name__ == "__main__":
    check(*sys.argv[1:])
