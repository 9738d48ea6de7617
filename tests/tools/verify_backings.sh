#!/bin/sh
# SPDX-License-Identifier: MIT
# Short runs of `minnow verify` on each backing, and with every way to choose nodes. For machines that nobody else uses, such
# as guests: it raises the pool of huge pages, and puts it back.
# usage: verify_backings.sh MINNOW
set -u
pool=/proc/sys/vm/nr_hugepages
before=$(cat $pool)
file=$(mktemp /var/tmp/minnow-verify-XXXXXX) || exit 1
trap 'rm -f "$file"; echo "$before" >$pool' EXIT
dd if=/dev/urandom of="$file" bs=1M count=24 2>/dev/null
echo $((before + 24)) >$pool
for choice in "shmem local" "shmem preferred" "graded interleave" "hugetlb-2M interleave" "hugetlb-2M bind"; do
    echo "$choice"
    "$1" verify "$file" --backing ${choice% *} --numa ${choice#* } --budget 8M --readers 2 --pattern zipf --ops 400 || exit 1
done
