#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""measure.py MINNOW AGENT FOLDER [options]: how fast guests are restored lazily, and what clones and deaths of the daemon
cost, beside the same guest without minnow. Medians; the runs that are compared alternate, so that the machine is the same for
both. docs/qemu.md says what the numbers were. Not run by CI.

Give the programs of a release build, and an idle machine.
"""
import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
import unittest

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, HERE)
import bed  # noqa: E402 (its folder was just named)
import machine  # noqa: E402
from slowstore import SlowStore  # noqa: E402

CRAWL = r"@crawl wrong (\d+) zeros (\d+) longest_us (\d+) over_100ms (\d+) us (\d+)"
BACKINGS = ["shmem", "graded", "hugetlb-2M"]


def median(values):
    return statistics.median(values)


def of(times, arm, baseline):
    """The median of what one arm took of another, in the same turn."""
    return median([one / other for one, other in zip(times[arm], times[baseline])])


class Rig(bed.GuestTest):
    """The test bed, outside of tests: each measurement cleans up after itself."""

    resident = 0

    def runTest(self):
        pass

    def alone(self, function, *arguments):
        try:
            return function(*arguments)
        finally:
            self.doCleanups()

    def check(self, guest):
        self.assert_same(guest, 300)

    # ---- the first answer

    def preload(self, copy):
        """Seconds that it takes to have all memory of the image in memory, zeros included."""
        start = time.monotonic()
        with open(copy, "wb") as out:
            subprocess.run(["cat", bed.saved().ram], stdout=out, check=True)
        return time.monotonic() - start

    def plain_answer(self, copy, *options):
        guest = self.machine("plain", bed.saved().plain(copy, *options))
        return guest.restore(bed.saved().state)

    def lazy_answer(self, backing, working_set=None, option=None):
        recording = {"working_set": working_set} if working_set else {}
        daemon = self.serve(backing=backing, budget_mib=machine.MEMORY_MIB + 32, **recording)
        guest, seconds = self.restored(daemon, "lazy", *([option] if option else []))
        self.resident = daemon.image()["resident_bytes"]
        if option == "--record":
            guest.qmp().ask("quit")
            guest.process.wait(10)
        return seconds

    def first_answers(self, runs, backings, huge):
        """Without a working set, and with one that an earlier restore left ("replayed"); `huge`: a copy in huge pages."""
        copy = f"/dev/shm/minnow-measure-{os.getpid()}"
        working_set = os.path.join(bed.saved().folder, "answer.mws")
        self.alone(self.lazy_answer, "shmem", working_set, "--record")
        arms = {"plain": (self.plain_answer, copy)}
        for backing in backings:
            if backing == "hugetlb-2M":
                arms[f"plain {backing}"] = (self.plain_answer, huge, "align=2M", "reserve=off")
            arms[backing] = (self.lazy_answer, backing)
            arms[f"{backing} replayed"] = (self.lazy_answer, backing, working_set, "--replay")
        times = {name: [] for name in ("preload", *arms)}
        resident = {}
        try:
            for _ in range(runs):
                times["preload"].append(self.preload(copy))
                for arm, (answer, *arguments) in arms.items():
                    times[arm].append(self.alone(answer, *arguments))
                    resident[arm] = self.resident >> 20
                os.remove(copy)
        finally:
            if os.path.exists(copy):
                os.remove(copy)
        preload = median(times["preload"])
        report = {"preload_s": preload, "runs": runs, "times": times, "resident_mib": resident}
        for arm in arms:
            plain = "plain hugetlb-2M" if arm.startswith("hugetlb-2M") else "plain"
            report[arm] = {"seconds": median(times[arm]), "of_plain": of(times, arm, "plain"),
                           "of_plain_on_the_same_pages": of(times, arm, plain),
                           "of_preload_and_plain": median(times[arm]) / (preload + median(times["plain"]))}
        return report

    # ---- a slow store, with and without a working set

    def slow_answer(self, uri, working_set, option):
        daemon = self.serve(uri, working_set=working_set, budget_mib=machine.MEMORY_MIB)
        guest, seconds = self.restored(daemon, "slow", *([option] if option else []))
        guest.qmp().ask("quit")
        guest.process.wait(10)
        return seconds

    def working_sets(self, runs, delay_ms):
        store = SlowStore(bed.saved().folder, bed.saved().ram, delay_ms)
        working_set = os.path.join(bed.saved().folder, "guest.mws")
        times = {"without": [], "replayed": []}
        try:
            self.alone(self.slow_answer, store.uri, working_set, "--record")
            for _ in range(runs):
                times["without"].append(self.alone(self.slow_answer, store.uri, working_set, None))
                times["replayed"].append(self.alone(self.slow_answer, store.uri, working_set, "--replay"))
        finally:
            store.close()
        without, replayed = median(times["without"]), median(times["replayed"])
        return {"delay_ms": delay_ms, "without_s": without, "replayed_s": replayed, "ratio": replayed / without,
                "runs": runs, "times": times, "working_set_bytes": os.path.getsize(working_set)}

    # ---- clones

    def clones(self, count, backing):
        daemon = self.serve(backing=backing, guests=count, budget_mib=machine.MEMORY_MIB + 32)
        rows = []
        for number in range(1, count + 1):
            before = daemon.image()
            guest, seconds = self.restored(daemon, f"clone-{number}")
            self.check(guest)
            after = daemon.image()
            private, touched = guest.view_kib()
            rows.append({"answer_s": seconds, "private_mib": private / 1024, "touched_mib": touched / 1024,
                         "store_reads": after["fills"] - before["fills"],
                         "store_mib": (after["fill_bytes"] - before["fill_bytes"]) / 2**20,
                         "cache_mib": after["resident_bytes"] >> 20})
        return rows

    # ---- stalls

    def crawl(self, guest, seconds, disturb):
        guest.console.send(f"crawl {seconds * 1000}")
        extra = disturb()
        wrong, zeros, longest, _, _ = guest.ask("", CRAWL)
        self.assertEqual((wrong, zeros), (0, 0))
        return longest / 1000, extra

    def stall(self, disturb, backing):
        daemon = self.serve(backing=backing, budget_mib=machine.MEMORY_MIB + 32)
        guest, _ = self.restored(daemon, "stall")
        return self.crawl(guest, 6, lambda: disturb(daemon))

    def stalls(self, runs, backing):
        def nothing(_daemon):
            return 0

        def kills(daemon):
            starts = []
            for _ in range(10):
                time.sleep(0.45)
                starts.append(daemon.kill_worker())
            return max(starts) * 1000

        def handover(daemon):
            time.sleep(1)
            return daemon.hand_over() * 1000

        report = {}
        for name, disturb in (("undisturbed", nothing), ("ten_kills", kills), ("handover", handover)):
            rows = [self.alone(self.stall, disturb, backing) for _ in range(runs)]
            report[name] = {"longest_ms": median([row[0] for row in rows]), "worst_ms": max(row[0] for row in rows),
                            "new_worker_ms": median([row[1] for row in rows]), "times": rows}
        return report


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("minnow", "agent", "folder"):
        parser.add_argument(name)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--memory", type=int, default=512, metavar="MIB", help="of the guest")
    parser.add_argument("--data", type=int, default=160, metavar="MIB", help="that the guest keeps")
    parser.add_argument("--delay", type=int, default=2, metavar="MS", help="of each store read, with working sets")
    parser.add_argument("--only", choices=["answer", "working-set", "clones", "stall"], action="append")
    parser.add_argument("--backing", choices=BACKINGS, action="append")
    options = parser.parse_args()
    bed.MINNOW, bed.AGENT, bed.FOLDER = (os.path.abspath(getattr(options, name)) for name in ("minnow", "agent", "folder"))
    machine.MEMORY_MIB, bed.DATA_MIB = options.memory, options.data
    backings, wanted = options.backing or BACKINGS, options.only or ["answer", "working-set", "clones", "stall"]
    if why := bed.lacking():
        sys.exit(why)
    rig = Rig()
    report = {"memory_mib": options.memory, "data_mib": options.data, "kernel": os.uname().release}
    try:
        bed.saved()
        if "answer" in wanted:
            with bed.huge_copy() if "hugetlb-2M" in backings else contextlib.nullcontext() as huge:
                report["answer"] = rig.first_answers(options.runs, backings, huge)
        if "working-set" in wanted:
            report["working_set"] = rig.working_sets(options.runs, options.delay)
        if "clones" in wanted:
            report["clones"] = {backing: rig.alone(rig.clones, 4, backing) for backing in backings}
        if "stall" in wanted:
            report["stall"] = {backing: rig.stalls(max(3, options.runs // 2), backing) for backing in backings}
    except unittest.SkipTest as why:
        sys.exit(str(why))
    finally:
        rig.doCleanups()
        if hasattr(bed.saved, "made"):
            bed.saved.made.remove()
    json.dump(report, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
