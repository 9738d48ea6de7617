#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Tells a result of `minnow verify --json` (stdin) in words: tell.py KIND."""
import json
import sys

MIB = 1 << 20


def main():
    kind, result = sys.argv[1], json.load(sys.stdin)
    wrong, unread = result["mismatches"], result["io_errors"]
    rate = result["pages_checked"] / max(result["seconds"], 1e-9)
    print(f"{kind}: {result['readers']} threads read {result['pages_checked']:,} pages ({result['pattern']}) of a "
          f"{result['file_bytes'] // MIB:,} MiB file by pointer in {result['seconds']:.1f} s ({rate:,.0f} a second), and "
          f"compared every byte with the file.")
    print(f"  {'Not one byte differed' if not wrong else f'{wrong:,} pages DIFFERED'}; "
          f"{'every page could be read' if not unread else f'{unread:,} pages could NOT be read'}.")
    print(f"  The budget was {result['budget_bytes'] // MIB} MiB, and {result['resident_bytes_max'] / MIB:.1f} MiB was the "
          f"most ever resident; {result['evictions']:,} extents were evicted to keep to it.")
    print(f"  {result['faults_minor'] + result['faults_missing']:,} faults were handled: half within "
          f"{result['fault_ns_p50'] / 1000:,.1f} us, 99 in 100 within {result['fault_ns_p99'] / 1000:,.1f} us; "
          f"{result['fill_bytes'] // MIB:,} MiB were read from the file.")


if __name__ == "__main__":
    main()
