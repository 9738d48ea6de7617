# SPDX-License-Identifier: MIT
"""The daemon dies, or is replaced, while guests run and touch memory that they have not touched before."""
import time

from bed import GuestTest

CRAWL = r"@crawl wrong (\d+) zeros (\d+) longest_us (\d+) over_100ms (\d+) us (\d+)"
KILLS = 10
STALL_SECONDS = 3  # on a machine with nothing else to do it is a hundredth of this; see docs/qemu.md


class Survive(GuestTest):
    def crawl(self, machine, milliseconds, disturb):
        """The guest checks every page once while `disturb` is called again and again; its longest stall in seconds."""
        machine.console.send(f"crawl {milliseconds}")
        disturb()
        wrong, zeros, longest, _, _ = machine.ask("", CRAWL)
        self.assertEqual((wrong, zeros), (0, 0), "words that are wrong, and those of them that are zero")
        return longest / 1e6

    def test_ten_kills_under_load(self):
        daemon = self.serve()
        lazy, _ = self.restored(daemon)
        workers = set()

        def kill_often():
            for _ in range(KILLS):
                time.sleep(0.5)
                workers.add(daemon.worker())
                daemon.kill_worker()

        longest = self.crawl(lazy, 7000, kill_often)
        self.assertEqual(len(workers), KILLS, "each death was one of another worker")
        self.assert_same(lazy)
        self.assertLess(longest, STALL_SECONDS)
        self.assertEqual(lazy.end(), 0)
        self.assertEqual(daemon.end(), 0)

    def test_handover_to_a_new_binary(self):
        daemon = self.serve()
        lazy, _ = self.restored(daemon)

        def hand_over():
            time.sleep(1)
            self.assertTrue(daemon.worker_runs_what_is_on_disk())
            daemon.hand_over()

        longest = self.crawl(lazy, 2500, hand_over)
        self.assertTrue(daemon.worker_runs_what_is_on_disk())
        self.assert_same(lazy)
        self.assertLess(longest, STALL_SECONDS)
        self.assertEqual(lazy.end(), 0)
        self.assertEqual(daemon.end(), 0)
