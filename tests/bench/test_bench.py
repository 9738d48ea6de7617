#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What minnow-bench prints, refuses and compares; the numbers themselves are not tested here. PROGRAM SMOKED."""
import copy
import json
import os
import pathlib
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import unittest

PROGRAM = pathlib.Path(sys.argv.pop(1)).resolve()
SMOKED = sys.argv.pop(1).split()  # what the suite runs in smoke mode
CHEAP = "engine-open"  # has values, no ratios
RATIO = "engine-fault"
TARGETED = "metadata"
PINNED = "resident-thread"
TARGETS = ["metadata", "resident-thread", "resident-inline", "scan-resident", "cold-random-inline", "fill-hugetlb-2M",
           "fill-graded", "fill-shmem", "zipf-quarter", "uniform-quarter", "zipf-memcg", "graded-promoted", "threads-64"]
KEYS = {"name", "benchmark", "value", "unit", "n", "min", "median", "max", "baseline", "ratio", "verdict"}


def heed_signals():
    for sign in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(sign, signal.SIG_DFL)


def bench(*arguments):
    return subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, timeout=300, check=False)


def measured(run):
    return [result for result in run["results"] if "value" in result]


class Bench(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        done = bench("run", CHEAP, RATIO, "--smoke", "--json")
        assert done.returncode in (0, 77), done.stderr + done.stdout
        cls.saved = json.loads(done.stdout)

    def compare(self, before, *more):
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(before, file)
            file.flush()
            return bench("run", CHEAP, RATIO, "--smoke", "--compare", file.name, *more)

    def test_list(self):
        words, names = bench("list"), json.loads(bench("list", "--json").stdout)
        self.assertEqual(words.returncode, 0)
        self.assertGreater(len(names), 5)
        self.assertEqual(len({entry["name"] for entry in names}), len(names))
        for entry in names:
            self.assertIn(entry["name"], words.stdout)

    def test_each_is_smoked(self):
        names = [entry["name"] for entry in json.loads(bench("list", "--json").stdout)]
        self.assertEqual(sorted(SMOKED), sorted(names))

    def test_targets_are_the_rows(self):
        listed = json.loads(bench("list", "--json").stdout)
        self.assertEqual([entry["name"] for entry in listed if entry["group"] == "targets"], TARGETS)

    def test_refused(self):
        for arguments in ([], ["fly"], ["run"], ["run", "nothing-of-that-name"], ["run", CHEAP, "--repeat", "0"],
                          ["run", CHEAP, "--repeat", "x"], ["run", CHEAP, "--sideways"], ["list", CHEAP],
                          ["run", CHEAP, "--compare", "/nonexistent"], ["run", CHEAP, "--compare", "/etc/hostname"]):
            done = bench(*arguments)
            self.assertEqual(done.returncode, 3, arguments)
            self.assertEqual(done.stdout, "", arguments)
            self.assertTrue(done.stderr, arguments)

    def test_keys(self):
        self.assertEqual(set(self.saved["benchmarks"]), {RATIO, CHEAP})
        for result in measured(self.saved):
            self.assertLessEqual(KEYS, set(result), result["name"])
            self.assertLessEqual(result["min"], result["median"])
            self.assertLessEqual(result["median"], result["max"])
            if result["samples"]:
                self.assertEqual(len(result["samples"]), result["n"])
        ratios = [result for result in measured(self.saved) if result["ratio"] is not None]
        self.assertTrue(ratios)
        for result in ratios:
            self.assertEqual(result["n"], len(result["ratios"]))
            self.assertGreater(result["baseline"], 0)

    def test_latencies_ascend(self):
        found = [result["distribution"] for result in measured(self.saved) if "distribution" in result]
        self.assertTrue(found)
        for points in found:
            self.assertEqual(points, sorted(points))
            self.assertEqual(points[-1][0], 1)

    def test_fingerprint(self):
        mark = self.saved["fingerprint"]
        for key in ("kernel", "cpu", "cpus", "nodes", "hugepages", "transparent_hugepages", "versions", "seed", "checksum"):
            self.assertIn(key, mark)
        self.assertEqual(mark["seed"], 1)

    def test_same_work_same_checksum(self):
        runs = [json.loads(bench("run", RATIO, "--smoke", "--json", "--seed", seed).stdout) for seed in "223"]
        marks = [run["fingerprint"]["checksum"] for run in runs]
        self.assertEqual(marks[0], marks[1])
        self.assertNotEqual(marks[0], marks[2])

    def test_compare_tells_what_is_worse_and_better(self):
        before = copy.deepcopy(self.saved)
        for result in measured(before):
            if result["name"].startswith(CHEAP + "/rss"):
                continue
            factor = 0.001 if result["name"] == f"{CHEAP}/shmem" else 1000
            for key in ("value", "low", "high", "median", "ratio", "ratio_low", "ratio_high"):
                if result.get(key) is not None:
                    result[key] *= factor
        done = self.compare(before, "--json")
        changes = {change["name"]: change for change in json.loads(done.stdout)["compare"]["changes"]}
        self.assertEqual(changes[f"{CHEAP}/shmem"]["verdict"], "worse")
        self.assertEqual(changes[f"{CHEAP}/graded"]["verdict"], "better")
        self.assertEqual(changes[f"{RATIO}/same-cpu"]["of"], "ratio")
        self.assertEqual(changes[f"{RATIO}/same-cpu"]["verdict"], "better")
        self.assertEqual(done.returncode, 1)

    def test_compare_keeps_to_the_noise(self):
        before = copy.deepcopy(self.saved)
        for result in measured(before):
            for low, high in (("low", "high"), ("ratio_low", "ratio_high")):
                if result.get(low) is not None:
                    result[low], result[high] = result[low] / 1000, result[high] * 1000
        done = self.compare(before)
        self.assertIn("0 better, 0 worse", done.stdout)
        self.assertIn(done.returncode, (0, 77))

    def test_compare_tells_of_another_machine(self):
        before = copy.deepcopy(self.saved)
        before["fingerprint"]["kernel"] = "2.6.9-imaginary"
        before["fingerprint"]["checksum"] = "0123456789abcdef"
        done = self.compare(before)
        self.assertIn("not the same kernel", done.stdout)
        self.assertIn("2.6.9-imaginary", done.stdout)
        self.assertIn("not the same checksum", done.stdout)

    def test_report_is_one_page_with_plots(self):
        with tempfile.TemporaryDirectory() as folder:
            run, page = pathlib.Path(folder, "run.json"), pathlib.Path(folder, "page.html")
            saved = copy.deepcopy(self.saved)
            saved["fingerprint"]["cpu"] = "a <b>bold</b> & odd one"
            run.write_text(json.dumps(saved), encoding="utf-8")
            done = bench("report", str(run), "--output", str(page))
            self.assertEqual(done.returncode, 0, done.stderr)
            text = page.read_text(encoding="utf-8")
        self.assertGreaterEqual(text.count("<svg"), 2)
        self.assertEqual(text.count("<svg"), text.count("</svg>"))
        self.assertIsNone(re.search(r'(src|href)\s*=\s*["\']?https?:', text.replace("http://www.w3.org", "")))
        self.assertIn("a &lt;b&gt;bold&lt;/b&gt; &amp; odd one", text)
        for result in measured(saved):
            self.assertIn(result["name"], text)

    def test_report_of_series(self):
        """The exponent of what grows, latencies at each place of a series, and nodes, which do not grow."""
        points = [[fraction, 100 + 900 * fraction] for fraction in (0.1, 0.5, 0.9, 1)]
        like = {"unit": "ns", "n": 3, "samples": [], "verdict": "information", "baseline": None, "ratio": None}

        def result(benchmark, series, by, at, value):
            values = {key: value for key in ("value", "low", "high", "min", "median", "max")}
            return {**like, **values, "name": f"{benchmark}/{series}-{at}", "benchmark": benchmark, "by": by, "at": at,
                    "series": series, "distribution": points}
        run = copy.deepcopy(self.saved)
        run["benchmarks"] = ["grow", "nodes"]
        run["results"] = [result("grow", f"n{power}", "size", at, 3 * at ** power)
                          for power in (0, 1, 2) for at in (1, 2, 4, 8)]
        run["results"] += [result("nodes", f"memory on {memory}", "node of the CPU", cpu, 100 * (1 + (cpu != memory)))
                           for memory in (0, 1) for cpu in (0, 1)]
        with tempfile.TemporaryDirectory() as folder:
            path, page = pathlib.Path(folder, "run.json"), pathlib.Path(folder, "page.html")
            path.write_text(json.dumps(run), encoding="utf-8")
            done = bench("report", str(path), "--output", str(page))
            text = page.read_text(encoding="utf-8")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        for label in ("n0 (exponent 0.00)", "n1 (exponent 1.00)", "n2 (exponent 2.00)", "nodes: ns by node of the CPU"):
            self.assertEqual(text.count(label), 1, label)
        for at in (1, 2, 4, 8):
            self.assertEqual(text.count(f"grow, size {at}: how many took longer than so long"), 1, at)
        for node in (0, 1):
            self.assertEqual(text.count(f"nodes, node of the CPU {node}: how many took longer than so long"), 1, node)
        self.assertEqual(text.count("(exponent "), 3)

    def test_report_of_a_run_without_ratios_or_points(self):
        with tempfile.TemporaryDirectory() as folder:
            run, page = pathlib.Path(folder, "run.json"), pathlib.Path(folder, "page.html")
            saved = copy.deepcopy(self.saved)
            saved["results"] = [{key: value for key, value in result.items() if key != "distribution"}
                                for result in measured(saved) if result["name"].startswith(CHEAP)][:1]
            run.write_text(json.dumps(saved), encoding="utf-8")
            done = bench("report", str(run), "--output", str(page))
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertIn(saved["results"][0]["name"], page.read_text(encoding="utf-8"))

    def test_smoke_does_not_judge(self):
        """Numbers of seconds mean too little to say that a target was missed."""
        done = bench("run", TARGETED, "--smoke")
        self.assertIn("targets not looked at", done.stdout)
        self.assertNotRegex(done.stdout, r"(missed|held)")
        found = json.loads(bench("run", TARGETED, "--smoke", "--json").stdout)
        self.assertTrue(any("target" in result for result in measured(found)))
        self.assertEqual({result["verdict"] for result in measured(found)}, {"information"})

    def test_ended_from_outside(self):
        """The parent, which puts settings back, outlives its child by every signal; killed itself, it takes the child along."""
        for sign, status in ((signal.SIGHUP, 129), (signal.SIGQUIT, 131), (signal.SIGPIPE, 141), (signal.SIGKILL, -9)):
            # Whoever runs this may ignore signals, as nohup(1) and shells do for what is in the background; that would stay so.
            process = subprocess.Popen([PROGRAM, "run", "resident-thread", "--repeat", "1000"], stdout=subprocess.DEVNULL,
                                       stderr=subprocess.PIPE, text=True,
                                       preexec_fn=heed_signals)
            time.sleep(0.3)
            children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
            child = children.read_text(encoding="ascii").split()[0]
            process.send_signal(sign)
            ended, said = process.wait(20), process.stderr.read()
            process.stderr.close()
            self.assertEqual(ended, status, said)
            until = time.monotonic() + 5
            while pathlib.Path(f"/proc/{child}/exe").exists():
                self.assertLess(time.monotonic(), until, "what measures runs on")
                time.sleep(0.02)

    @unittest.skipIf(len(os.sched_getaffinity(0)) < 2, "one CPU")
    def test_interrupted_tells_what_is_finished(self):
        """In the second of two benchmarks, the one that pins itself to a CPU; the first does not."""
        with subprocess.Popen([PROGRAM, "run", TARGETED, PINNED, "--smoke", "--repeat", "1000", "--json"], text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heed_signals) as process:
            children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
            until = time.monotonic() + 60
            while time.monotonic() < until:
                for child in children.read_text(encoding="ascii").split():
                    try:
                        state = pathlib.Path(f"/proc/{child}/status").read_text(encoding="ascii")
                    except (FileNotFoundError, ProcessLookupError):
                        continue
                    if re.search(r"^Cpus_allowed_list:\t[0-9]+$", state, re.M):
                        until = 0
                time.sleep(0.002)
            process.send_signal(signal.SIGINT)
            printed, said = process.communicate(timeout=60)
        self.assertEqual((process.returncode, said), (128 + signal.SIGINT, ""))
        run = json.loads(printed)
        self.assertTrue(run["partial"])
        self.assertEqual([result["name"] for result in run["results"]], [TARGETED])
        self.assertEqual((run["benchmarks"], run["unfinished"]), ([TARGETED, PINNED], [PINNED]))
        self.assertFalse(self.saved["partial"])
        with tempfile.TemporaryDirectory() as folder:
            path, page = pathlib.Path(folder, "part.json"), pathlib.Path(folder, "page.html")
            path.write_text(json.dumps(run), encoding="utf-8")
            self.assertEqual(bench("report", str(path), "--output", str(page)).returncode, 0)
            self.assertIn("(interrupted: this is a part)", page.read_text(encoding="utf-8"))

    def test_descriptors_as_many_as_may_be(self):
        """A login's first limit is less than a thousand views take; more may be had."""
        def lower():
            resource.setrlimit(resource.RLIMIT_NOFILE, (24, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        done = subprocess.run([PROGRAM, "run", "scale-eviction", "--smoke"], capture_output=True, text=True, timeout=60,
                              preexec_fn=lower, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def policies(self, trace, *more):
        done = bench("policies", str(trace), "--json", *more)
        self.assertEqual(done.returncode, 0, done.stderr)
        told = json.loads(done.stdout)
        return told, {row["name"]: row for row in told["policies"]}

    def test_policies_of_a_trace(self):
        with tempfile.TemporaryDirectory() as folder:
            trace, again = pathlib.Path(folder, "zipf.trace"), pathlib.Path(folder, "again.trace")
            for path in (trace, again):
                done = bench("trace", "--output", str(path), "--pages", "4096", "--reads", "20000", "--unit", "16")
                self.assertEqual(done.returncode, 0, done.stderr)
            first, second = trace.read_bytes(), again.read_bytes()
            pages = [[bytes[at:at + 5] for at in range(64, len(bytes), 8)] for bytes in (first, second)]
            self.assertEqual(pages[0], pages[1], "the same seed, other reads")
            told, rows = self.policies(trace, "--live", "--repeat", "1")
            self.assertEqual((told["reads"], told["store_pages"], told["budget_pages"]), (20000, 4096, 1024))
            self.assertIn(told["best"], ("CLOCK", "LRU", "S3-FIFO", "SIEVE"))
            self.assertEqual(rows[told["best"]]["to_best"], 1)
            # Single pages drawn at random: nothing is read ahead, so nobody misses less than the optimum, the engine included.
            for name in ("CLOCK", "LRU", "S3-FIFO", "SIEVE", "minnow CLOCK", "minnow S3-FIFO", "as recorded", "minnow, live"):
                self.assertGreaterEqual(rows[name]["to_optimum"], 1, name)
                self.assertLess(rows[name]["to_best"], 1.5, name)
            self.assertGreater(rows["as recorded"]["minor_faults"], 0)
            # Room for all: each page misses once, whoever evicts. What was recorded says nothing of that.
            told, rows = self.policies(trace, "--budget", "4096", "--unit", "1")
            self.assertEqual({row["misses"] for row in rows.values()}, {len(set(pages[0]))})
            self.assertNotIn("as recorded", rows)
            for option in ("--budget", "--unit"):
                done = bench("policies", str(trace), option, "0")
                self.assertEqual((done.returncode, done.stdout), (3, ""))
                self.assertIn(f"{option}: from 1 to 2^30", done.stderr)
            words = bench("policies", str(trace)).stdout
            self.assertIn("optimum", words)
            trace.write_bytes(first[:-1] + bytes([first[-1] ^ 1]))
            done = bench("policies", str(trace))
            self.assertEqual((done.returncode, done.stdout), (3, ""))
            self.assertIn("checksum", done.stderr)

    def test_traces_refused(self):
        for arguments in (["trace"], ["trace", "--output", "/nonexistent/x", "x"], ["trace", "-o", "x", "--workload", "odd"],
                          ["trace", "-o", "x", "--pages", "0"], ["trace", "-o", "x", "--reads", "0"],
                          ["trace", "-o", "x", "--budget", "-1"], ["trace", "-o", "x", "--unit", "0"],
                          ["trace", "-o", "/nonexistent/x", "--pages", "16", "--reads", "1", "--budget", "0"],
                          ["policies"], ["policies", "/etc/hostname"], ["policies", "/nonexistent"], ["policies", "/dev/zero"],
                          ["policies", "/etc/hostname", "--repeat", "0"], ["policies", "/etc/hostname", "--budget", "-1"]):
            done = bench(*arguments)
            self.assertEqual((done.returncode, done.stdout), (3, ""), arguments)
            self.assertTrue(done.stderr, arguments)
        done = bench("trace", "--output", "/nonexistent/x", "--pages", "2048", "--reads", "10", "--budget", "1024")
        self.assertEqual(done.returncode, 2)
        self.assertIn("/nonexistent/x: No such file", done.stderr)

    def test_report_refuses_what_is_no_run(self):
        done = bench("report", "/etc/hostname")
        self.assertEqual(done.returncode, 3)
        self.assertIn("/etc/hostname", done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
