# SPDX-License-Identifier: MIT
"""On which NUMA node a cache's pages lie, follow their users, copies on each, and nodes that run out, in guests with several nodes:
placement, rebalance, replicas, scarcity and node_threads of tests/live on both kernels.

usage: test_placement.py PROGRAM... [TEST]...
"""
import os
import subprocess
import sys
import unittest

import jobs

RUN = [sys.executable, os.path.join(os.path.dirname(os.path.realpath(__file__)), "run")]
# Of these programs only so much with each run of the tests.
QUICK = {"rebalance": ["test_follows*"]}


class Placement(unittest.TestCase):
    def run_on(self, kernel, nodes, patterns, memory="512M", programs=None):
        for program in programs or PROGRAMS:
            with self.subTest(program=os.path.basename(program)):
                done = subprocess.run([*RUN, "--kernel", kernel, "--nodes", str(nodes), "--node-memory", memory, "--timeout", "300",
                                       "--", program, *patterns.get(os.path.basename(program), [])],
                                      stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                      timeout=400, check=False)
                self.assertEqual(done.returncode, 0, done.stdout[-4000:])
                self.assertNotIn("skipped", done.stdout)

    def test_two_nodes_on_6_1(self):
        self.run_on("6.1", 2, QUICK)

    def test_four_nodes_on_the_newest(self):
        self.run_on("newest", 4, {})

    def test_pages_of_1_gib(self):
        program = os.path.join(os.path.dirname(PROGRAMS[0]), "placement_1g")
        for kernel in ("6.1", "newest"):
            self.run_on(kernel, 2, {}, "3G", [program])


if __name__ == "__main__":
    if why := jobs.lacking():
        print(why)
        sys.exit(77)
    PROGRAMS = []
    while len(sys.argv) > 1 and os.path.exists(sys.argv[1]):
        PROGRAMS.append(os.path.abspath(sys.argv.pop(1)))
    unittest.main(verbosity=2)
