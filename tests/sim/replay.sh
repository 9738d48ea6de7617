#!/bin/sh
# SPDX-License-Identifier: MIT
# A seed replays exactly: the digest of every switch is the same in each run, alone or in company.
# usage: replay.sh MINNOW-SIM
set -u
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
"$1" --seed 1 --count 60 --digest | grep digest >"$work/first" || exit 1
for seed in $(seq 60 -1 1); do
    "$1" --seed "$seed" --digest | grep digest || exit 1
done | sort -k2n >"$work/second"
[ "$(wc -l <"$work/first")" -eq 60 ] || { echo "60 digests wanted"; exit 1; }
diff -u "$work/first" "$work/second" && echo "60 seeds replay exactly"
