#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Adds up test results: summary.py STEPS LOG...

STEPS is a file with a line "passed|failed|skipped NAME" for each check that meson does not run; each LOG is a
testlog.json of meson. Programs of many cases (cmocka, unittest) count by their cases, so that a skip inside one shows.
Prints what failed and what was skipped, and the sum, alone, as the last line. Exits 1 when anything failed, or when
nothing passed.
"""
import json
import re
import sys

CMOCKA = re.compile(r"^\[ +(OK|FAILED|SKIPPED|ERROR) +\] ([\w./ -]+)$", re.M)
UNITTEST = re.compile(r"^Ran (\d+) tests? in [\d.]+s\n\n(OK|FAILED)(?: \((.*)\))?$", re.M)


def cases_of(entry):
    """(passed, failed, skipped case names) of a program that says so, or None."""
    cases = CMOCKA.findall(entry.get("stdout", ""))
    if cases:
        names = {"OK": [], "FAILED": [], "SKIPPED": [], "ERROR": []}
        for result, name in cases:
            names[result].append(name)
        return len(names["OK"]), len(names["FAILED"] + names["ERROR"]), names["SKIPPED"]
    match = UNITTEST.search(entry.get("stderr", "") + entry.get("stdout", ""))
    if match:
        parts = dict(part.split("=") for part in (match.group(3) or "").split(", ") if "=" in part)
        bad = int(parts.get("failures", 0)) + int(parts.get("errors", 0))
        skipped = int(parts.get("skipped", 0))
        return int(match.group(1)) - bad - skipped, bad, [f"{skipped} cases"] * skipped
    return None


def why_skipped(entry):
    lines = (entry.get("stdout", "") + "\n" + entry.get("stderr", "")).strip().splitlines()
    return lines[-1].strip() if lines else "no reason given"


def main():
    passed = failed = 0
    failures, skips = [], []
    with open(sys.argv[1], encoding="utf-8") as steps:
        for line in steps:
            result, name = line.strip().split(" ", 1)
            passed += result == "passed"
            if result == "failed":
                failed += 1
                failures.append(name)
            elif result == "skipped":
                skips.append((name, ""))
    for log in sys.argv[2:]:
        build = log.split("/meson-logs/")[0]
        with open(log, encoding="utf-8") as entries:
            for line in entries:
                entry = json.loads(line)
                name, result = f"{build}: {entry['name']}", entry["result"]
                cases = cases_of(entry)
                if result == "SKIP":
                    skips.append((name, why_skipped(entry)))
                elif result in ("OK", "EXPECTEDFAIL"):
                    passed += cases[0] if cases else 1
                    skips += [(name, case) for case in (cases[2] if cases else [])]
                else:
                    passed += cases[0] if cases else 0
                    failed += max(1, cases[1] if cases else 1)
                    failures.append(f"{name} ({result.lower()})")
    for name, why in skips:
        print(f"skipped: {name}{': ' + why if why else ''}")
    for name in failures:
        print(f"FAILED: {name}")
    if passed == 0 and failed == 0:
        failed = 1
        print("FAILED: nothing was run")
    print(f"{passed} passed, {failed} failed, {len(skips)} skipped")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
