# SPDX-License-Identifier: MIT
"""A guest restored from a store that is slow, and from one that fails now and then."""
import os

from bed import GuestTest, longer, saved


class Store(GuestTest):
    def slowly(self, backing):
        store = self.slow(delay_ms=5)
        daemon = self.serve(store.uri, backing)
        lazy, _ = self.restored(daemon)
        self.assert_same(lazy, timeout=120)
        self.assertEqual(lazy.end(), 0)
        self.assertEqual(daemon.end(), 0)

    def test_a_slow_store_delays_and_nothing_else(self):
        self.slowly("shmem")

    @longer
    def test_a_slow_store_graded(self):
        self.slowly("graded")

    @longer
    def test_a_slow_store_hugetlb_2m(self):
        self.slowly("hugetlb-2M")

    def failing(self, backing):
        store = self.slow(error_percent=20)
        store.fail(True)
        daemon = self.serve(store.uri, backing, read_retries=30, retry_delay_ms=2)
        lazy, _ = self.restored(daemon)
        self.assert_same(lazy, timeout=120)
        self.assertGreater(store.errors(), 10, "the store did not fail: this test has shown nothing")
        self.assertEqual(lazy.end(), 0)
        self.assertEqual(daemon.end(), 0)

    def test_a_store_that_fails_now_and_then_is_healed_by_trying_again(self):
        self.failing("shmem")

    @longer
    def test_a_failing_store_graded(self):
        self.failing("graded")

    @longer
    def test_a_failing_store_hugetlb_2m(self):
        self.failing("hugetlb-2M")

    def test_a_recorded_working_set_makes_the_next_restore_faster(self):
        store = self.slow(delay_ms=5)
        working_set = os.path.join(saved().folder, "guest.mws")
        seconds, misses = [], []
        for option in ("--record", "--replay"):
            daemon = self.serve(store.uri, working_set=working_set)
            lazy, answered = self.restored(daemon, option.strip("-"), option)
            misses.append(daemon.image()["faults_missing"])
            self.assertEqual(lazy.end(), 0)
            self.assertEqual(daemon.end(), 0)
            self.assertTrue(os.path.exists(working_set), "nothing was recorded")
            seconds.append(answered)
        self.assertLess(misses[1], misses[0] / 2, "what was recorded was not read ahead")
        self.assertLess(seconds[1], seconds[0])
