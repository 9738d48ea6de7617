#!/bin/sh
# SPDX-License-Identifier: MIT
# Short runs of `minnow verify` on each backing, and with every way to choose nodes. For machines that nobody else uses, such
# as guests: it raises the pool of huge pages, and puts it back.
# usage: verify_backings.sh MINNOW
set -u
pool=/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages
before=$(cat $pool)
file=$(mktemp /var/tmp/minnow-verify-XXXXXX) || exit 1
trap 'rm -f "$file"; echo "$before" >$pool' EXIT
dd if=/dev/urandom of="$file" bs=1M count=24 2>/dev/null
echo $((before + 24)) >$pool
set -- "$1" "shmem local" "shmem preferred" "hugetlb-2M interleave" "hugetlb-2M bind"
# Where base pages are larger than 4 KiB, an extent of graded memory is larger than this file.
! grep -q '^Hugepagesize: *2048 kB' /proc/meminfo || set -- "$@" "graded interleave"
minnow=$1
shift
for choice; do
    echo "$choice"
    "$minnow" verify "$file" --backing ${choice% *} --numa ${choice#* } --budget 8M --readers 2 --pattern zipf --ops 400 || exit 1
done
