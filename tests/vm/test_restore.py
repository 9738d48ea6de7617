# SPDX-License-Identifier: MIT
"""One guest, saved and restored lazily: on each backing, with a balloon, through a reboot."""
import time

from bed import GuestTest, longer, saved
from machine import MEMORY_MIB


class Save(GuestTest):
    def test_a_saved_guest_holds_its_data(self):
        self.assertGreaterEqual(saved().info["pages"] * 4096, 150 << 20)
        self.assertIn(f"{MEMORY_MIB} MiB of memory", saved().said)

    def test_without_minnow_the_saved_guest_goes_on(self):
        plain = self.machine("plain", saved().plain(saved().ram))
        plain.restore(saved().state)
        self.assertEqual(plain.info()["boot"], saved().info["boot"])
        self.assert_same(plain)


class Restore(GuestTest):
    def restore_on(self, backing):
        daemon = self.serve(backing=backing)
        lazy, _ = self.restored(daemon)
        # It answered with the least of its memory read: the rest comes as it is touched.
        self.assertLess(daemon.image()["resident_bytes"], 150 << 20)
        self.assertEqual(lazy.info()["boot"], saved().info["boot"])
        self.assert_same(lazy)
        self.assertGreaterEqual(daemon.image()["resident_bytes"], 150 << 20)
        # What the guest writes is its own, and stays.
        lazy.ask("write 7 2000", "@write 2000")
        checksum, wrong = lazy.sum()
        self.assertEqual(wrong, 0)
        self.assertNotEqual(checksum, saved().sum)
        self.assertEqual(lazy.end(), 0)
        return daemon

    def test_shmem(self):
        daemon = self.restore_on("shmem")
        again, _ = self.restored(daemon, "again")  # what the first one wrote must not be in the image
        self.assert_same(again)

    def test_graded(self):
        self.restore_on("graded")

    def test_hugetlb_2m(self):
        self.restore_on("hugetlb-2M")


class Memfd(GuestTest):
    """QEMU's memory-backend-memfd: nothing but the memfd's name says that it is to be an image."""

    def test_clones_are_isolated(self):
        daemon = self.serve()
        one, _ = self.restored_by("one", saved().lazy_memfd(daemon))
        # It came from the image, as it was touched: the memfd itself is empty.
        self.assertGreater(daemon.image()["resident_bytes"], 0)
        self.assertLess(daemon.image()["resident_bytes"], 150 << 20)
        self.assert_same(one)
        one.ask("write 7 2000", "@write 2000")
        other, _ = self.restored_by("other", saved().lazy_memfd(daemon))
        self.assert_same(other)
        self.assertNotEqual(one.sum()[0], saved().sum)
        self.assertEqual((one.end(), other.end()), (0, 0))

    def test_hugetlb_2m(self):
        daemon = self.serve(backing="hugetlb-2M")
        lazy, _ = self.restored_by("huge", saved().lazy_memfd(daemon, "hugetlb=on", "hugetlbsize=2M"))
        self.assert_same(lazy)
        self.assertEqual(lazy.end(), 0)


class Balloon(GuestTest):
    def wait_for(self, machine, mebibytes):
        deadline = time.monotonic() + 30
        while (now := machine.qmp().ask("query-balloon")["actual"] >> 20) != mebibytes:
            self.assertLess(time.monotonic(), deadline, f"the balloon stopped at {now} MiB; {mebibytes} were asked for")
            time.sleep(0.05)

    def in_and_out(self, backing):
        daemon = self.serve(backing=backing)
        lazy, _ = self.restored(daemon)
        lazy.qmp().ask("balloon", value=(MEMORY_MIB - 96) << 20)
        self.wait_for(lazy, MEMORY_MIB - 96)
        self.assert_same(lazy)
        lazy.qmp().ask("balloon", value=MEMORY_MIB << 20)
        self.wait_for(lazy, MEMORY_MIB)
        # The pages that came back are used, and hold what is written to them.
        first, second = (lazy.ask(f"sh {command}", r"(\w{32})  \S+\r*\n@sh 0")[0] for command in (
            "dd if=/dev/urandom of=/tmp/x bs=1048576 count=64 2>/dev/null; md5sum /tmp/x",
            "md5sum /tmp/x"))
        self.assertEqual(first, second)
        self.assert_same(lazy)
        self.assertEqual(lazy.end(), 0)
        # The balloon gave away the guest's own pages and none of the image's.
        again, _ = self.restored(daemon, "again")
        self.assert_same(again)

    def test_in_and_out(self):
        self.in_and_out("shmem")

    @longer
    def test_graded(self):
        self.in_and_out("graded")

    @longer
    def test_hugetlb_2m(self):
        self.in_and_out("hugetlb-2M")


class Reboot(GuestTest):
    def reboots(self, backing):
        daemon = self.serve(backing=backing)
        lazy, _ = self.restored(daemon)
        lazy.ask("reboot", "@reboot")
        lazy.wait_ready()
        self.assertNotEqual(lazy.info()["boot"], saved().info["boot"])
        self.assert_same(lazy)  # it filled its memory anew, with the same data
        self.assertEqual(lazy.end(), 0)
        again, _ = self.restored(daemon, "again")
        self.assertEqual(again.info()["boot"], saved().info["boot"])
        self.assert_same(again)

    def test_a_restored_guest_reboots(self):
        self.reboots("shmem")

    @longer
    def test_graded(self):
        self.reboots("graded")

    @longer
    def test_hugetlb_2m(self):
        self.reboots("hugetlb-2M")
