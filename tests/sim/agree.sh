#!/bin/sh
# SPDX-License-Identifier: MIT
# Runs the scenarios on the fake kernel and on the real one; both must tell the same story. The real one may drop a
# mapping on its own account (khugepaged, for one), so it is asked a second time before it is believed to disagree.
# usage: agree.sh SCENARIOS-FAKE SCENARIOS-LIVE
set -u
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
# The fake kernel plays the real one's version.
lacks=$("$2" --lacks)
"$1" $lacks >"$work/fake" || { echo "the fake kernel's own expectations failed" >&2; exit 1; }
for attempt in 1 2; do
    "$2" >"$work/live"
    status=$?
    [ $status -eq 77 ] && exit 77
    # A backing that the real kernel cannot give here is left out on both sides; it was named on stderr.
    grep -o '^[a-z0-9-]*/[A-Za-z0-9-]*:' "$work/live" >"$work/ran"
    awk 'NR == FNR { ran[$1] = 1; next } /^[^ ]/ { on = ($1 in ran) } on' "$work/ran" "$work/fake" >"$work/fake-ran"
    if diff -u --label fake --label "real, attempt $attempt" "$work/fake-ran" "$work/live"; then
        echo "$(grep -c '^[^ ]' "$work/live") runs agree, $(wc -l <"$work/live") lines"
        exit $status
    fi
    echo "the fake kernel and the real one disagree" >&2
done
exit 1
