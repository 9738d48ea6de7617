# SPDX-License-Identifier: MIT
"""Running the command under test, whose path is the program's only argument."""
import subprocess
import sys
import unittest

COMMAND = None


def run(*arguments, **options):
    """The finished process; never reads stdin, never outlives its timeout."""
    options.setdefault("timeout", 60)
    return subprocess.run([COMMAND, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, check=False, **options)


def main():
    global COMMAND
    COMMAND = sys.argv.pop(1)
    unittest.main(argv=sys.argv[:1], verbosity=2)
