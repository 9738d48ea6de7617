#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs tests of a build folder inside guests, as meson knows them, and ends with 1 when one failed.

A test that skips itself there does so for a reason, which is shown; one that hangs the guest costs that guest, and
the tests behind it run in the next one.
"""
import argparse
import glob
import json
import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
import debian  # noqa: E402 (its folder was just named)
import jobs  # noqa: E402

SKIPPED = 77
ASK_PYTHON = "import sys, sysconfig; print(sys.executable); print(sysconfig.get_path('stdlib'))"


def known_tests(build):
    """What meson would run: a list of dictionaries."""
    done = subprocess.run(["meson", "introspect", "--tests", build], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          text=True, check=True)
    return json.loads(done.stdout)


class Test:
    """One test of the build folder, as a job for a guest."""

    def __init__(self, about, build, architecture, slower):
        self.name = about["name"]
        self.output = b""
        self.word = None  # "ok", "skip" or "FAIL", once it has ended
        self.error = None
        # Meson runs tests in the build folder.
        self.job = jobs.Job(about["cmd"], slower * (about["timeout"] or 30), build, about["env"])
        words = [os.path.join(build, word) for word in about["cmd"][1:]]
        self.files = [word for word in words if os.path.exists(word)]
        for folder in about["env"].get("LD_LIBRARY_PATH", "").split(":"):
            self.files += glob.glob(folder + "/*.so*") if folder else []
        self.needs_python = os.path.basename(about["cmd"][0]).startswith("python")
        if self.needs_python and architecture == "amd64":
            self._bring_python()

    def _bring_python(self):
        """The interpreter's own modules, and those of the tests."""
        answer = subprocess.run([self.job.command[0], "-c", ASK_PYTHON], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                text=True, check=True).stdout.split()
        self.job.command[0] = answer[0]
        self.files += [answer[1], *glob.glob(os.path.join(os.path.dirname(self.files[0]), "../*/*.py"))]

    def tell(self):
        """Prints how the test ended, and why if it did not pass."""
        text = self.output.decode(errors="replace")
        self.word, why = "FAIL", self.error or f"status {self.job.status}\n{text}"
        if self.job.status == 0:
            self.word, why = "ok", ""
        elif self.job.status == SKIPPED:
            said = [line.strip() for line in text.splitlines() if line.strip()]
            self.word, why = "skip", next((line for line in said if "skip" in line.lower()), said[-1] if said else "no reason")
        print(f"{self.word:4} {self.name:24} {self.job.seconds or 0:6.1f} s  {why}", flush=True)


# What tells most about a kernel comes first, should there be no time for all, or nobody to wait for it.
FIRST = ["uffd_", "bad_input", "stress-", "errors", "closing", "remote_", "inline", "adopt_", "limits", "fork_", "verify"]
AT_ONCE = 6  # tests in one guest, where time is short: between two guests the clock is looked at


def in_order(tests):
    return sorted(tests, key=lambda test: next((i for i, name in enumerate(FIRST) if test.name.startswith(name)), len(FIRST)))


def run_in_time(shape, tests, minutes):
    """Those that can be begun in so many minutes; the others have the word "none"."""
    started = time.monotonic()
    while tests and time.monotonic() - started < 60 * minutes:
        run(shape, tests[:AT_ONCE])
        tests = tests[AT_ONCE:]
    for test in tests:
        test.word = "none"
        print(f"none {test.name}: not run, {minutes} minutes are over", flush=True)


def run(shape, tests):
    """Runs the tests in as many guests as it takes, and tells of each when it has ended."""
    by_job = {id(test.job): test for test in tests}

    def show(job, _, data):
        if job:
            by_job[id(job)].output += data

    def ended(job):
        by_job[id(job)].tell()

    left = list(tests)
    while left:
        files = [file for test in left for file in test.files]
        try:
            jobs.Guest(shape, [test.job for test in left], show, files, ended).run()
        except (jobs.Hang, jobs.GuestError) as error:
            lost = next(test for test in left if test.job.status is None)
            lost.error = f"{error}\n---- what the test wrote:\n{lost.output[-3000:].decode(errors='replace')}"
            lost.tell()
        left = [test for test in left if not test.word]


def main():
    parser = argparse.ArgumentParser(prog="tests/vm/suite.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--kernel", choices=debian.KERNELS, default="6.1")
    parser.add_argument("--arch", choices=debian.ARCHITECTURES, default="amd64", help="what the build folder is for (amd64)")
    parser.add_argument("--nodes", type=int, default=2, help="NUMA nodes (2)")
    parser.add_argument("--node-memory", type=int, default=1536, metavar="MIB", help="MiB per node (1536)")
    parser.add_argument("--slower", type=int, default=jobs.SLOWER, metavar="N",
                        help=f"how many times longer than on the machine itself things may take ({jobs.SLOWER}); more on a busy one")
    parser.add_argument("--minutes", type=int, help="begin none after so many (all are run)")
    parser.add_argument("--suite", action="append", help="the tests of this suite (live and guest); may be repeated")
    parser.add_argument("build", help="a build folder")
    parser.add_argument("names", nargs="*", metavar="TEST", help="these tests alone")
    chosen = parser.parse_args()
    if why := jobs.lacking(chosen.arch):
        print(why)
        return SKIPPED
    suites = chosen.suite or ["live", "guest"]
    found = [about for about in known_tests(chosen.build) if any(full.split(":")[1] in suites for full in about["suite"])]
    unknown = set(chosen.names) - {about["name"] for about in found}
    if unknown or not found:
        parser.error(f"suite {' or '.join(suites)} of {chosen.build} has no test {', '.join(sorted(unknown))}")
    tests = [Test(about, os.path.abspath(chosen.build), chosen.arch, chosen.slower) for about in found
             if not chosen.names or about["name"] in chosen.names]
    print(f"Linux {debian.kernel(chosen.kernel, chosen.arch).release}, {chosen.nodes} nodes", flush=True)
    if chosen.arch != "amd64":
        for test in [test for test in tests if test.needs_python]:
            print(f"not run: {test.name}: there is no Python for {chosen.arch} to take along", flush=True)
            tests.remove(test)
    jobs.end_in_order()
    tests = in_order(tests)
    shape = jobs.Shape(chosen.kernel, chosen.nodes, node_mib=chosen.node_memory, architecture=chosen.arch,
                       slower=chosen.slower)
    if chosen.minutes:
        run_in_time(shape, tests, chosen.minutes)
    else:
        run(shape, tests)
    words = [test.word for test in tests]
    print(f"{words.count('ok')} passed, {words.count('FAIL')} failed, {words.count('skip')} skipped, {words.count('none')} not run")
    return 1 if "FAIL" in words else 0


if __name__ == "__main__":
    sys.exit(main())
