# SPDX-License-Identifier: MIT
"""Huge pages of the host, borrowed for a while."""
import unittest

HUGE_PAGES = "/proc/sys/vm/nr_hugepages"


class HugePages:
    """Borrows 2 MiB pages while it is entered."""

    def __init__(self, mebibytes):
        self.wanted = mebibytes // 2
        self.before = None

    def __enter__(self):
        with open(HUGE_PAGES, encoding="ascii") as file:
            self.before = file.read()
        self._set(int(self.before) + self.wanted)
        with open(HUGE_PAGES, encoding="ascii") as file:
            got = int(file.read()) - int(self.before)
        if got < self.wanted:
            self._set(int(self.before))
            raise unittest.SkipTest(f"only {got} of {self.wanted} huge pages of 2 MiB are to be had")
        return self

    def __exit__(self, *_):
        self._set(int(self.before))

    @staticmethod
    def _set(number):
        with open(HUGE_PAGES, "w", encoding="ascii") as file:
            file.write(str(number))
