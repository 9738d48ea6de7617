# SPDX-License-Identifier: MIT
"""The daemon dies, or is replaced, while guests run, touch memory that they have not touched before, and write."""
import sys
import time

from bed import GuestTest, longer, saved

CRAWL = r"@crawl wrong (\d+) zeros (\d+) longest_us (\d+) over_100ms (\d+) us (\d+)"
LOAD = r"@load turns (\d+) wrong (\d+) zeros (\d+) longest_us (\d+) over_100ms (\d+)"
KILLS = 10
BETWEEN_SECONDS = 0.2
STALL_SECONDS = 10  # where nothing else runs it is some hundredth of this, see docs/qemu.md; clones share CPUs


class Survive(GuestTest):
    def kill_often(self, daemon):
        workers = set()
        for _ in range(KILLS):
            time.sleep(BETWEEN_SECONDS)
            workers.add(daemon.worker())
            daemon.kill_worker()
            daemon.stats()  # it serves: nobody is to wait through several deaths
        self.assertEqual(len(workers), KILLS, "each death was one of another worker")

    def hand_over(self, daemon):
        time.sleep(BETWEEN_SECONDS)
        self.assertTrue(daemon.worker_runs_what_is_on_disk())
        daemon.hand_over()
        self.assertTrue(daemon.worker_runs_what_is_on_disk())

    def go_through(self, disturb, seconds, backing, count=1):
        """The first guest checks every page once, the others check and write at random, while `disturb` is at work."""
        daemon = self.serve(backing=backing, guests=count)
        guests = [self.restored(daemon, f"guest-{number}")[0] for number in range(1, count + 1)]
        first, *writers = guests
        for number, writer in enumerate(writers, 2):
            writer.console.send(f"load {number} {seconds * 1000:.0f} 20")
        first.console.send(f"crawl {seconds * 1000:.0f}")
        disturb(daemon)
        wrong, zeros, longest, _, _ = first.ask("", CRAWL)
        self.assertEqual((wrong, zeros), (0, 0), "words that are wrong, and those of them that are zero")
        for writer in writers:
            turns, wrong, zeros, stall, _ = writer.ask("", LOAD)
            self.assertGreater(turns, 0)
            self.assertEqual((wrong, zeros), (0, 0), "words of a clone that are not its own, and those that are zero")
            longest = max(longest, stall)
        print(f"{backing}, {count} guests: longest stall {longest / 1000:.0f} ms ... ", end="", file=sys.stderr)
        sums = self.sums(guests)
        self.assertEqual([wrong for _, wrong in sums], [0] * count, "words of a clone that are not its own")
        self.assertEqual(sums[0][0], saved().sum, "the guest that wrote nothing sees what others wrote, or other data")
        self.assertEqual(len({checksum for checksum, _ in sums}), count)
        self.assertLess(longest / 1e6, STALL_SECONDS)
        self.assertEqual([machine.end() for machine in guests], [0] * count)
        self.assertEqual(daemon.end(), 0)

    def ten_kills(self, backing):
        self.go_through(self.kill_often, KILLS * BETWEEN_SECONDS + 1.5, backing)

    def test_ten_kills_under_load(self):
        self.ten_kills("shmem")

    @longer
    def test_ten_kills_graded(self):
        self.ten_kills("graded")

    @longer
    def test_ten_kills_hugetlb_2m(self):
        self.ten_kills("hugetlb-2M")

    def one_handover(self, backing):
        self.go_through(self.hand_over, 1.5, backing)

    def test_handover_to_a_new_binary(self):
        self.one_handover("shmem")

    @longer
    def test_handover_graded(self):
        self.one_handover("graded")

    @longer
    def test_handover_hugetlb_2m(self):
        self.one_handover("hugetlb-2M")

    def clones(self, backing, count):
        """Killed ten times, and then handed over."""
        def disturb(daemon):
            self.kill_often(daemon)
            self.hand_over(daemon)

        self.go_through(disturb, (KILLS + 1) * BETWEEN_SECONDS + 2, backing, count)

    def test_two_clones_graded(self):
        self.clones("graded", 2)

    @longer
    def test_four_clones_shmem(self):
        self.clones("shmem", 4)

    @longer
    def test_four_clones_graded(self):
        self.clones("graded", 4)

    @longer
    def test_four_clones_hugetlb_2m(self):
        self.clones("hugetlb-2M", 4)
