# SPDX-License-Identifier: MIT
"""A Debian kernel and a busybox initramfs for the test guest, made without touching the host.

Packages are fetched with `apt-get download` into a folder of the build and unpacked there. What was made once is kept.
"""
import os
import re
import shutil
import stat
import subprocess

KERNEL = "linux-image-cloud-amd64"  # depends on the package that holds the kernel
BUSYBOX = "busybox-static"
MODULES = ["virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_balloon"]
INIT = """#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for module in %(modules)s; do insmod /modules/$module.ko || echo "@error insmod $module"; done
mount -t tmpfs -o size=%(tmpfs)dm data /data
exec </dev/ttyS0 >/dev/ttyS0 2>&1
exec /bin/agent %(mebibytes)d %(seed)d
"""


def apt(*arguments, **options):
    return subprocess.run(arguments, check=True, stdin=subprocess.DEVNULL, text=True, **options)


def kernel_package():
    """The package that the meta package stands for today."""
    def ask():
        answer = apt("apt-cache", "depends", "--important", KERNEL, stdout=subprocess.PIPE, stderr=subprocess.PIPE).stdout
        return re.search(r"Depends: (linux-image-\S+-cloud-amd64)", answer)
    try:
        found = ask()
    except subprocess.CalledProcessError:
        found = None
    if not found:  # a machine whose package lists were never fetched
        apt("apt-get", "-q", "update")
        found = ask()
    if not found:
        raise RuntimeError(f"apt-cache knows no {KERNEL}; the guest needs Debian's package lists")
    return found.group(1)


def fetch(package, folder):
    """Downloads and unpacks a package under `folder`, unless it is there."""
    unpacked = os.path.join(folder, package)
    if os.path.isdir(unpacked):
        return unpacked
    os.makedirs(folder, exist_ok=True)
    command = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", package]
    try:
        apt(*command, cwd=folder)
    except subprocess.CalledProcessError:  # the lists are older than the archive
        apt("apt-get", "-q", "update")
        apt(*command, cwd=folder)
    archives = [name for name in os.listdir(folder) if name.startswith(package + "_") and name.endswith(".deb")]
    partial = unpacked + ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    apt("dpkg", "-x", os.path.join(folder, archives[0]), partial)
    os.rename(partial, unpacked)
    for name in archives:
        os.remove(os.path.join(folder, name))
    return unpacked


def cpio_entry(out, number, name, mode, data=b""):
    """One entry of the "newc" format, which the kernel unpacks."""
    encoded = name.encode() + b"\0"
    fields = [number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0]
    out.write(b"070701" + b"".join(b"%08X" % field for field in fields) + encoded)
    out.write(b"\0" * (-(6 + 13 * 8 + len(encoded)) % 4))
    out.write(data + b"\0" * (-len(data) % 4))


def write_initramfs(path, kernel, busybox, agent, mebibytes, seed):
    modules = {}
    for folder, _, names in os.walk(os.path.join(kernel, "lib/modules")):
        modules.update({name[:-3]: os.path.join(folder, name) for name in names if name.endswith(".ko")})
    # A module that is not there is built in.
    wanted = [name for name in MODULES if name in modules]
    init = INIT % {"modules": " ".join(wanted), "tmpfs": mebibytes + 16, "mebibytes": mebibytes, "seed": seed}
    files = {"init": init.encode()}
    for name, source in [("bin/busybox", os.path.join(busybox, "bin/busybox")), ("bin/agent", agent)] + [
            (f"modules/{name}.ko", modules[name]) for name in wanted]:
        with open(source, "rb") as file:
            files[name] = file.read()
    folders = ["bin", "data", "dev", "modules", "proc", "root", "sys", "tmp"]
    links = ["sh", "mount", "insmod", "cat", "echo", "free", "sleep", "dd", "md5sum"]
    with open(path + ".partial", "wb") as out:
        number = 1
        for name in folders:
            cpio_entry(out, number, name, stat.S_IFDIR | 0o755)
            number += 1
        for name in links:
            cpio_entry(out, number, f"bin/{name}", stat.S_IFLNK | 0o777, b"busybox")
            number += 1
        for name, content in files.items():
            cpio_entry(out, number, name, stat.S_IFREG | 0o755, content)
            number += 1
        cpio_entry(out, 0, "TRAILER!!!", 0)
    os.rename(path + ".partial", path)


def prepare(folder, agent, mebibytes=160, seed=2026):
    """(kernel, initramfs) for a guest that keeps so many MiB of data."""
    packages = os.path.join(folder, "packages")
    kernel = fetch(kernel_package(), packages)
    busybox = fetch(BUSYBOX, packages)
    images = os.listdir(os.path.join(kernel, "boot"))
    vmlinuz = next(os.path.join(kernel, "boot", name) for name in images if name.startswith("vmlinuz"))
    initramfs = os.path.join(folder, f"initramfs-{mebibytes}-{seed}")
    write_initramfs(initramfs, kernel, busybox, agent, mebibytes, seed)
    return vmlinuz, initramfs
