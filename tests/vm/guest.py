# SPDX-License-Identifier: MIT
"""The guest that is saved and restored: Debian's kernel, the agent, and its data in RAM."""
import os

import debian
from initramfs import VIRTIO, Initramfs

INIT = """#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
%(modules)s
mount -t tmpfs -o size=%(tmpfs)dm data /data
exec </dev/ttyS0 >/dev/ttyS0 2>&1
exec /bin/agent %(mebibytes)d %(seed)d
"""


def prepare(folder, agent, mebibytes=160, seed=2026):
    """(kernel, initramfs) for a guest that keeps so many MiB of data."""
    kernel = debian.kernel("6.1")
    initramfs = Initramfs(kernel, debian.busybox())
    initramfs.folder("/data")
    initramfs.copy("/bin/agent", agent)
    words = {"modules": initramfs.modules([*VIRTIO, "virtio_balloon"]), "tmpfs": mebibytes + 16,
             "mebibytes": mebibytes, "seed": seed}
    initramfs.write("/init", (INIT % words).encode())
    path = os.path.join(folder, f"initramfs-{mebibytes}-{seed}")
    initramfs.save(path)
    return kernel.image, path
