#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""doctor: its two forms agree, its status follows the required findings, and what it claims is what sysfs says."""
import glob
import json
import os
import re
import resource
import time
import unittest

import command


THP = "/sys/kernel/mm/transparent_hugepage"
SHMEM_ENABLED = f"{THP}/shmem_enabled"
OWN_ENABLED = f"{THP}/hugepages-2048kB/shmem_enabled"  # from Linux 6.11


def chosen(text):
    return re.search(r"\[(\w+)\]", text).group(1)


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read().strip()


def moving_settings():
    """What other programs may change while the test looks."""
    paths = glob.glob("/sys/devices/system/node/node[0-9]*/hugepages/hugepages-*kB/*_hugepages")
    paths += glob.glob(SHMEM_ENABLED) + glob.glob(OWN_ENABLED)
    return {path: read(path) for path in paths}


class Doctor(unittest.TestCase):
    @classmethod
    def look(cls):
        cls.settings = moving_settings()
        cls.done = command.run("doctor", "--json")
        cls.lines = command.run("doctor")
        cls.report = json.loads(cls.done.stdout)
        cls.findings = {finding["name"]: finding for finding in cls.report["findings"]}

    @classmethod
    def setUpClass(cls):
        cls.look()

    def eventually(self, compare):
        """A program that uses huge pages meanwhile makes a comparison fail at times; a wrong doctor always."""
        for _ in range(100):
            try:
                return compare()
            except (AssertionError, KeyError):
                time.sleep(0.05)
                self.look()
        return compare()

    def test_status_follows_required(self):
        missing = [f for f in self.report["findings"] if f["required"] and not f["ok"]]
        self.assertEqual(self.report["required_missing"], len(missing))
        self.assertEqual(self.report["ok"], not missing)
        self.assertEqual(self.done.returncode, 1 if missing else 0)

    def test_findings_are_whole(self):
        self.assertEqual(len(self.findings), len(self.report["findings"]), "names are unique")
        for finding in self.report["findings"]:
            self.assertRegex(finding["name"], r"^[a-zA-Z0-9-]+$")
            self.assertTrue(finding["found"])
            if finding["ok"]:
                self.assertIsNone(finding["fix"], finding)

    def test_expected_names(self):
        for name in ("kernel", "userfaultfd", "uffd-syscall", "uffd-device", "uffd-user-only", "uffd-minor-shmem",
                     "uffd-minor-hugetlbfs", "uffd-poison", "uffd-sigbus", "backing-shmem", "backing-graded",
                     "backing-hugetlb-2M", "backing-hugetlb-1G", "shmem-huge", "io-uring", "numa",
                     "numa-placement", "numa-balancing", "numa-move", "overcommit"):
            self.assertIn(name, self.findings)
        self.assertTrue(self.findings["backing-shmem"]["required"])
        self.assertFalse(self.findings["uffd-poison"]["required"])

    def test_kernel(self):
        release = read("/proc/sys/kernel/osrelease")
        self.assertIn(release, self.findings["kernel"]["found"])
        major, minor = map(int, re.match(r"(\d+)\.(\d+)", release).groups())
        self.assertEqual(self.findings["kernel"]["ok"], (major, minor) >= (5, 14))

    def test_features_follow_the_kernel(self):
        major, minor = map(int, re.match(r"(\d+)\.(\d+)", read("/proc/sys/kernel/osrelease")).groups())
        if self.findings["uffd-syscall"]["ok"]:
            self.assertEqual(self.findings["uffd-poison"]["ok"], (major, minor) >= (6, 6))
        self.assertEqual(self.findings["uffd-device"]["ok"], os.access("/dev/userfaultfd", os.R_OK | os.W_OK))
        if not self.findings["uffd-poison"]["ok"]:
            for consequence in ("before Linux 6.6", "mapping of an empty file", "the reader waits", "forks"):
                self.assertIn(consequence, self.findings["uffd-poison"]["found"])

    def test_nodes_match_the_kernel(self):
        allowed = re.search(r"^Mems_allowed_list:\s*(\S+)$", read("/proc/self/status"), re.M)[1]
        numbers = []
        for part in allowed.split(","):
            first, _, last = part.partition("-")
            numbers += range(int(first), int(last or first) + 1)
        numbers = [n for n in numbers if os.path.exists(f"/sys/devices/system/node/node{n}")]
        self.assertRegex(self.findings["numa"]["found"], rf"^{len(numbers)} nodes? .*: {','.join(map(str, numbers))}$")

        self.assertTrue(self.findings["numa-placement"]["ok"], self.findings["numa-placement"])
        several = f"each of the {len(numbers)} nodes"
        self.assertIn(several if len(numbers) > 1 else "one node", self.findings["numa-placement"]["found"])

    def test_balancing_is_noticed(self):
        path = "/proc/sys/kernel/numa_balancing"
        value = read(path) if os.path.exists(path) else "0"
        finding = self.findings["numa-balancing"]
        self.assertTrue(finding["found"].startswith(f"kernel.numa_balancing is {value}"), finding)
        several = " nodes " in self.findings["numa"]["found"]
        self.assertEqual(finding["ok"], value == "0" or not several)
        if not finding["ok"]:
            self.assertEqual(finding["fix"], "sysctl -w kernel.numa_balancing=0")

    def test_hugepages_match_sysfs(self):
        self.eventually(self.hugepages_match_sysfs)

    def hugepages_match_sysfs(self):
        names = {2048: "2M", 1048576: "1G", 64: "64K", 32768: "32M"}
        for directory in glob.glob("/sys/devices/system/node/node[0-9]*/hugepages/hugepages-*kB"):
            node, kib = map(int, re.search(r"node(\d+)/hugepages/hugepages-(\d+)kB", directory).groups())
            if kib not in names:
                continue
            finding = self.findings[f"hugepages-{names[kib]}-node{node}"]
            free, total = (self.settings[f"{directory}/{name}_hugepages"] for name in ("free", "nr"))
            self.assertEqual(finding["found"], f"{free} of {total} free")
            self.assertEqual(finding["ok"], int(free) > 0)
            if not finding["ok"]:
                self.assertIn(directory + "/nr_hugepages", finding["fix"])

    def test_shmem_huge_matches_sysfs(self):
        self.eventually(self.shmem_huge_matches_sysfs)

    def shmem_huge_matches_sysfs(self):
        finding, graded = self.findings["shmem-huge"], self.findings["backing-graded"]
        if not os.path.exists(SHMEM_ENABLED):
            self.assertFalse(finding["ok"])
            return
        word, own = chosen(self.settings[SHMEM_ENABLED]), chosen(self.settings.get(OWN_ENABLED, "[inherit]"))
        self.assertIn(word, finding["found"])
        if own != "inherit":
            self.assertIn(own, finding["found"])
        counts = word if own == "inherit" or word in ("deny", "force") else own
        self.assertEqual(finding["ok"], counts not in ("never", "deny"))
        if graded["ok"]:
            self.assertIn("memfds" if finding["ok"] else "private tmpfs", graded["found"])
        if not finding["ok"]:
            self.assertIn(f"echo advise > {SHMEM_ENABLED}", finding["fix"])
            self.assertEqual(own != "inherit" and word != "deny", OWN_ENABLED in finding["fix"])

    @unittest.skipUnless(os.access(SHMEM_ENABLED, os.W_OK) and os.path.exists(OWN_ENABLED),
                         "these settings cannot be made")
    def test_shmem_huge_follows_its_settings(self):
        before = {path: chosen(read(path)) for path in (SHMEM_ENABLED, OWN_ENABLED)}
        try:
            for word, own, ok in (("never", "inherit", False), ("advise", "inherit", True), ("advise", "never", False),
                                  ("never", "advise", True), ("deny", "always", False)):
                for path, value in ((SHMEM_ENABLED, word), (OWN_ENABLED, own)):
                    with open(path, "w", encoding="ascii") as file:
                        file.write(value)
                self.look()
                self.shmem_huge_matches_sysfs()
                self.assertEqual(self.findings["shmem-huge"]["ok"], ok, (word, own))
        finally:
            for path, value in before.items():
                with open(path, "w", encoding="ascii") as file:
                    file.write(value)
            self.look()

    def test_lines_say_the_same(self):
        self.eventually(self.lines_say_the_same)

    def lines_say_the_same(self):
        done = self.lines
        self.assertEqual(done.returncode, self.done.returncode)
        lines = re.findall(r"^(ok|--)  (\S+) +(.*)$", done.stdout, re.M)
        self.assertEqual([name for _, name, _ in lines], list(self.findings))
        for mark, name, text in lines:
            self.assertEqual(mark == "ok", self.findings[name]["ok"])
            self.assertIn(self.findings[name]["found"], text)
        fixes = re.findall(r"^ +fix: (.*)$", done.stdout, re.M)
        self.assertEqual(fixes, [f["fix"] for f in self.report["findings"] if f["fix"]])

    @unittest.skipUnless(os.environ.get("MINNOW_SANITIZE", "none") == "none", "a sanitizer's shadow needs the space")
    def test_address_space_limit_is_seen(self):
        limit = 1 << 36
        done = command.run("doctor", "--json",
                           preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))
        findings = {f["name"]: f for f in json.loads(done.stdout)["findings"]}
        self.assertFalse(findings["address-space"]["ok"])
        self.assertIn(str(limit), findings["address-space"]["found"])

    @unittest.skipUnless(os.geteuid() == 0, "only root can become somebody else")
    def test_unprivileged(self):
        done = command.run("doctor", "--json", user=65534, group=65534, extra_groups=[])
        findings = {f["name"]: f for f in json.loads(done.stdout)["findings"]}
        allowed = read("/proc/sys/vm/unprivileged_userfaultfd") == "1"
        self.assertEqual(findings["uffd-syscall"]["ok"], allowed)
        if not allowed:
            self.assertEqual(findings["uffd-syscall"]["fix"], "sysctl -w vm.unprivileged_userfaultfd=1")
            self.assertFalse(findings["uffd-kernel-faults"]["ok"] and not findings["uffd-device"]["ok"])


if __name__ == "__main__":
    command.main()
