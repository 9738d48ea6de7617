#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The daemon's state as JSON and as Prometheus text: both whole, both the same. ROOT SAMPLE."""
import json
import math
import pathlib
import re
import subprocess
import sys
import unittest

import exposition

ROOT, SAMPLE = sys.argv.pop(1), sys.argv.pop(1)
HEADER = pathlib.Path(ROOT, "include/minnow/minnow.h").read_text(encoding="utf-8")


def sample(what):
    return subprocess.run([SAMPLE, what], stdout=subprocess.PIPE, check=True, timeout=30).stdout.decode("utf-8")


def members(struct):
    body = re.search(rf"struct {struct} {{(.*?)\n}};", HEADER, re.S).group(1)
    return re.findall(r"uint64_t (\w+);", body)


def ascii_only(name):
    return re.sub(r"[^ -~\n]", "?", name)


class Metrics(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.state = json.loads(sample("json"))
        cls.text = sample("prometheus")
        cls.families = exposition.parse(cls.text)

    def test_json_has_every_statistic(self):
        self.assertGreater(len(members("mnw_stats")), 20)
        for pool in self.state["pools"]:
            self.assertEqual(set(members("mnw_stats")) - set(pool), set())
        for image in self.state["images"]:
            self.assertIn("fill_bytes", image)
            self.assertNotIn("budget_bytes", image)

    def test_json_numbers(self):
        self.assertEqual(self.state["metrics_version"], 1)
        self.assertEqual([self.state[key] for key in ("epoch", "pid", "sessions", "messages", "messages_refused",
                                                      "sessions_dropped", "uptime_ns")],
                         [4, 99, 3, 1000, 17, 2, 12000000345])
        values = [self.state["pools"][0][name] for name in members("mnw_stats")]
        self.assertEqual(sorted(values), [(1 << 33) + 1000 + i for i in range(len(values))])
        self.assertEqual(len(set(values)), len(values))
        self.assertEqual([pool["backing"] for pool in self.state["pools"]], ["shmem", "hugetlb-2M"])
        self.assertEqual([view["pid"] for view in self.state["views"]], [4711, 0, 1])
        self.assertEqual([view["recording"] for view in self.state["views"]], [False, True, False])
        self.assertEqual(self.state["views"][1]["address"], 0xffffffffff000)

    def test_names_survive(self):
        self.assertEqual([pool["name"] for pool in self.state["pools"]], ["main", "huge \"one\"\\"])
        self.assertEqual(self.state["images"][1]["name"], "line\nbreak")
        self.assertEqual(self.state["images"][2]["name"], "?? not text ??")
        self.assertEqual(self.state["views"][1]["peer"], "?")

    def test_prometheus_says_the_same(self):
        checked = 0
        for kind, name, things in (("pool", "mnw_pool_", self.state["pools"]),
                                   ("image", "mnw_image_", self.state["images"])):
            for thing in things:
                labels = {kind: ascii_only(thing["name"])}
                if kind == "image":
                    labels["pool"] = thing["pool"]
                for member in members("mnw_stats"):
                    if member not in thing:
                        continue
                    found = [family for family in (name + member, name + member + "_total") if family in self.families]
                    self.assertEqual(len(found), 1, member)
                    self.assertEqual(self.families[found[0]].value(found[0], labels), thing[member], member)
                    checked += 1
        self.assertGreater(checked, 100)
        for family, key in (("mnw_restarts_total", "epoch"), ("mnw_sessions", "sessions"),
                            ("mnw_messages_total", "messages"), ("mnw_messages_refused_total", "messages_refused"),
                            ("mnw_sessions_dropped_total", "sessions_dropped")):
            self.assertEqual(self.families[family].value(family, {}), self.state[key])
        self.assertEqual(self.families["mnw_uptime_seconds"].value("mnw_uptime_seconds", {}), 12.000000345)
        self.assertEqual(self.families["mnw_info"].value("mnw_info", {"version": self.state["version"]}), 1)
        self.assertEqual(self.families["mnw_image_size_bytes"].value("mnw_image_size_bytes",
                                                                     {"image": "guest", "pool": "main"}), 536870912)

    def test_histograms_say_the_same(self):
        family = self.families["mnw_fault_latency_seconds"]
        for pool in self.state["pools"]:
            for node in pool["nodes"]:
                if node["is_outside"]:
                    self.assertNotIn("total", node)
                    labels = {"pool": pool["name"], "node": str(node["node"]), "stage": "total"}
                    self.assertEqual(family.buckets(labels), [])
                    continue
                for stage in ("queue", "fill", "map", "total"):
                    histogram = node[stage]
                    labels = {"pool": pool["name"], "node": str(node["node"]), "stage": stage}
                    self.assertEqual(family.value("mnw_fault_latency_seconds_count", labels), histogram["count"])
                    self.assertAlmostEqual(family.value("mnw_fault_latency_seconds_sum", labels),
                                           histogram["sum_ns"] / 1e9, delta=histogram["sum_ns"] * 1e-12)
                    for bound, count in family.buckets(labels):
                        below = sum(n for least, n in histogram["buckets"] if least / 1e9 <= bound)
                        self.assertEqual(count, below, (labels, bound))

    def test_nodes_say_the_same(self):
        for pool in self.state["pools"]:
            for node in pool["nodes"]:
                labels = {"pool": pool["name"], "node": str(node["node"])}
                for member in [*members("mnw_node_stats"), "fault_threads"]:
                    name = "mnw_node_" + member + ("_total" if member == "pages_elsewhere" else "")
                    self.assertEqual(self.families[name].value(name, labels), node[member], name)
        node = self.state["pools"][1]["nodes"][1]
        self.assertEqual((node["node"], node["is_outside"], node["fault_threads"]), (3, 1, 0))
        self.assertEqual(node["resident_bytes"], 1000000000003)

    def test_counts_at_a_bound(self):
        """1023 ns is below 2^10, 1024 ns is not."""
        labels = {"pool": "main", "node": "0", "stage": "total"}
        counts = dict(self.families["mnw_fault_latency_seconds"].buckets(labels))
        self.assertEqual(counts[0.000001023], 1)
        self.assertEqual(counts[0.000002047], 7)
        self.assertEqual(counts[math.inf], 7)
        labels["node"] = "1"
        counts = dict(self.families["mnw_fault_latency_seconds"].buckets(labels))
        self.assertEqual(max(count for bound, count in counts.items() if bound != math.inf), 0)
        self.assertEqual(counts[math.inf], 2)

    def test_percentiles(self):
        histogram = self.state["pools"][0]["nodes"][0]["fill"]
        self.assertEqual(histogram["count"], 1000)
        self.assertEqual(histogram["max_ns"], 50000 + 999 * 7919)
        self.assertEqual(histogram["mean_ns"], histogram["sum_ns"] // 1000)
        for fraction, key in ((0.5, "p50_ns"), (0.9, "p90_ns"), (0.99, "p99_ns"), (0.999, "p999_ns")):
            exact = 50000 + (1000 * fraction - 1) * 7919
            self.assertGreaterEqual(histogram[key], exact * 0.999)
            self.assertLessEqual(histogram[key], exact * 1.26)

    def test_nothing_open(self):
        state = json.loads(sample("empty-json"))
        self.assertEqual((state["pools"], state["images"], state["views"]), ([], [], []))
        families = exposition.parse(sample("empty-prometheus"))
        self.assertEqual(families["mnw_sessions"].value("mnw_sessions", {}), 0)

    def test_the_parser_is_strict(self):
        exposition.parse("# HELP a x\n# TYPE a gauge\na 1\na{b=\"c\"} 2\n")
        for wrong in ("# HELP a x\n# TYPE a gauge\na 1", "a 1\n", "# TYPE a gauge\na 1\n",
                      "# HELP a x\n# TYPE a gauge\nb 1\n", "# HELP a x\n# TYPE a gauge\na 1\na 2\n",
                      "# HELP a x\n# TYPE a counter\na 1\n", "# HELP a x\n# TYPE a gauge\na{b=c} 1\n",
                      "# HELP a x\n# TYPE a gauge\na{b=\"\n\"} 1\n", "# HELP a x\n# TYPE a gauge\na{b=\"\\x\"} 1\n",
                      "# HELP a x\n# TYPE a gauge\na one\n", "# HELP a x\n# TYPE a gauge\n\na 1\n",
                      "# HELP a x\n# TYPE a histogram\na_bucket{le=\"1\"} 1\na_sum 1\na_count 1\n",
                      "# HELP a x\n# TYPE a histogram\na_bucket{le=\"1\"} 2\na_bucket{le=\"+Inf\"} 1\na_sum 1\n"
                      "a_count 1\n"):
            with self.assertRaises(exposition.Wrong, msg=wrong):
                exposition.parse(wrong)


if __name__ == "__main__":
    unittest.main(verbosity=2)
