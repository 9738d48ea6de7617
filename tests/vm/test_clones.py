# SPDX-License-Identifier: MIT
"""Guests from one image at once, started as a user does it: isolated from each other, and one copy in memory."""
import os
import re
import signal
import sys
import subprocess
import time

import bed
from bed import GuestTest, huge_copy, longer, saved
from machine import MEMORY_MIB, Console, Machine, view_kib


class Clone(Machine):
    """A console whose QEMU was started by someone else."""

    def __init__(self, folder, number, log_path, process):  # pylint: disable=super-init-not-called
        self.name, self.timeout, self.log_path, self.process = f"clone-{number}", 60, log_path, process
        self.console = Console(os.path.join(folder, f"serial-clone-{number}"))
        self.started = time.monotonic()

    def pid(self):
        """Of its QEMU, as minnow-restore says when the guest runs."""
        number = self.name.rsplit("-", maxsplit=1)[1]
        deadline = time.monotonic() + self.timeout
        while time.monotonic() < deadline:
            with open(self.log_path, encoding="utf-8", errors="replace") as log:
                if said := re.search(rf"guest {number} \(process (\d+)\)", log.read()):
                    return int(said.group(1))
            time.sleep(0.01)
        raise AssertionError(f"minnow-restore does not name the process of guest {number}")

    def view_kib(self):
        return view_kib(self.pid())

    def end(self):
        self.console.close()


class Clones(GuestTest):
    def start(self, daemon, count):
        """The clones, started together by minnow-restore."""
        log_path = os.path.join(saved().folder, "log-restore")
        clones = [Clone(saved().folder, number, log_path, None) for number in range(1, count + 1)]
        for clone in clones:
            self.addCleanup(clone.end)
        with open(log_path, "wb") as log:
            tool = subprocess.Popen(
                [os.path.join(bed.TOOLS, "minnow-restore"), "--minnow", bed.MINNOW, "--socket", daemon.socket,
                 "--image", "guest", "--clones", str(count), saved().directory, "--", *saved().hardware(),
                 "-serial", f"unix:{saved().folder}/serial-clone-{{n}}"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        self.addCleanup(self.end, tool)
        for clone in clones:
            clone.process = tool
        return tool, clones

    @staticmethod
    def end(tool):
        if tool.poll() is None:
            tool.send_signal(signal.SIGTERM)
            try:
                tool.wait(20)
            except subprocess.TimeoutExpired:
                tool.kill()
                tool.wait()
        return tool.returncode

    def clones_with_writes(self, count, **options):
        daemon = self.serve(guests=count, **options)
        tool, clones = self.start(daemon, count)
        for clone in clones:
            clone.first_answer()
        first, *others = clones
        self.assert_same(first)
        read_by_first = daemon.image()["fill_bytes"]
        self.assertEqual(self.sums(others), [(saved().sum, 0)] * len(others))
        for clone in others:
            private, touched = clone.view_kib()
            # On hugetlb each of the guest's few own writes copies 2 MiB, with minnow or without: see Memory.
            if options.get("backing") != "hugetlb-2M":
                self.assertLess(private, touched / 10, "KiB that a clone has for itself before it was told to write")
        for number, clone in enumerate(others, 2):
            clone.ask(f"write {number} 3000", "@write 3000")
        sums = self.sums(clones)
        self.assertEqual([wrong for _, wrong in sums], [0] * count, "words of a clone that are not its own")
        self.assertEqual(sums[0][0], saved().sum, "the clone that wrote nothing sees what the others wrote")
        self.assertEqual(len({checksum for checksum, _ in sums}), count)
        # What the first one had read was not read again: the others read little but pages that it never touched.
        read_by_all = daemon.image()["fill_bytes"]
        self.assertLess(read_by_all - read_by_first, read_by_first / 10)
        self.assertLessEqual(daemon.image()["resident_bytes"], MEMORY_MIB << 20)
        self.assertEqual(self.end(tool), 0, "minnow-restore, or a guest of it, ended badly")

    def test_four_clones_shmem(self):
        self.clones_with_writes(4)

    def test_two_clones_graded(self):
        self.clones_with_writes(2, backing="graded")

    def test_two_clones_hugetlb_2m(self):
        """Each may come to write all of its memory, beside the image."""
        self.clones_with_writes(2, backing="hugetlb-2M")


class Memory(GuestTest):
    """What a further clone costs before it was told to write, beside QEMU without minnow on pages of the same size."""

    def private_kib(self, name, command):
        guest, _ = self.restored_by(name, command)
        self.assert_same(guest)
        private, touched = guest.view_kib()
        print(f"{name}: {private} of {touched} KiB its own ... ", end="", file=sys.stderr)
        return private

    def beside_plain(self, backing, page_kib, plain_path, *options):
        plain = self.private_kib("plain", saved().plain(plain_path, *options))
        daemon = self.serve(backing=backing, guests=3)
        self.private_kib("first", saved().lazy(daemon))
        for name in ("second", "third"):
            # The guest's clock ticks, and its kernel writes, no two times in the same pages.
            self.assertLess(self.private_kib(name, saved().lazy(daemon)), 1.25 * plain + 4 * page_kib)

    @longer
    def test_shmem(self):
        self.beside_plain("shmem", 4, saved().ram)

    @longer
    def test_graded(self):
        self.beside_plain("graded", 4, saved().ram)

    @longer
    def test_hugetlb_2m(self):
        self.beside_plain("hugetlb-2M", 2048, self.enterContext(huge_copy()), "align=2M", "reserve=off")
