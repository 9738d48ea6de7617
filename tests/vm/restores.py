#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""restores.py MINNOW AGENT FOLDER [--all] [unittest arguments]: guests saved and restored. FOLDER keeps what is made for
one run to the next; --all also runs what takes too long for CI. Exits 77, and says why, where no guest can run."""
import os
import sys
import unittest

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, HERE)
import bed  # noqa: E402 (its folder was just named)

MODULES = ["test_tools", "test_restore", "test_clones", "test_store", "test_survive"]


def main():
    bed.MINNOW, bed.AGENT, bed.FOLDER = (os.path.abspath(path) for path in sys.argv[1:4])
    bed.ALL = "--all" in sys.argv[4:]
    arguments = [argument for argument in sys.argv[4:] if argument != "--all"]
    if why := bed.lacking():
        print(why)
        return 77
    try:
        program = unittest.main(module=None, argv=[sys.argv[0], *(arguments or MODULES)], verbosity=2, exit=False)
    finally:
        if hasattr(bed.saved, "made") and not os.environ.get("MINNOW_KEEP"):
            bed.saved.made.remove()
    return 0 if program.result.wasSuccessful() and program.result.testsRun else 1


if __name__ == "__main__":
    sys.exit(main())
