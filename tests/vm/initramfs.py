# SPDX-License-Identifier: MIT
"""The file systems that guests boot into: busybox, modules of their kernel, and what is to run there."""
import lzma
import os
import re
import stat
import subprocess

import debian

TRIPLETS = {"arm64": "aarch64-linux-gnu"}
APPLETS = ["sh", "awk", "cat", "chmod", "cp", "diff", "dmesg", "echo", "free", "grep", "insmod", "kill", "ls", "mkdir", "mktemp", "mount",
           "rm", "sed", "sleep", "stty", "timeout", "dd", "md5sum", "wc"]
EXT4 = ["crc16", "crc32c_generic", "mbcache", "jbd2", "ext4"]
VIRTIO = ["virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci"]


# Of folders: what nothing in a guest needs, and what is large in Python's.
LEFT_OUT = ["__pycache__", ".git", "test", "idlelib", "tkinter", "ensurepip", "lib2to3", "site-packages", "dist-packages"]


# The C library loads it when a thread is cancelled, and no program names it.
WITH_LIBC = "libgcc_s.so.1"


class NotRunnable(RuntimeError):
    """A program that cannot be taken along, and why."""


def machine(path):
    """The number of the architecture that an ELF file is for; None of other files."""
    with open(path, "rb") as file:
        head = file.read(20)
    return int.from_bytes(head[18:20], "little") if head[:4] == b"\x7fELF" else None


def _foreign_objects(path, sysroot, triplet):
    """What a program of another architecture needs, found without running it: (place in the guest, file here)."""
    if machine(path) is None:
        return []
    done = subprocess.run(["readelf", "--wide", "--dynamic", "--program-headers", path], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "LC_ALL": "C"}).stdout
    folders = [os.path.normpath(folder.replace("$ORIGIN", os.path.dirname(path)))
               for found in re.findall(r"\(R(?:UN)?PATH\).*\[(.*)\]", done) for folder in found.split(":")]
    folders += [f"{sysroot}/lib/{triplet}", f"{sysroot}/usr/lib/{triplet}"]
    found = [(loader, sysroot + loader) for loader in re.findall(r"interpreter: (\S+)\]", done)]
    for name in re.findall(r"\(NEEDED\).*\[(.*)\]", done):
        file = next((os.path.join(folder, name) for folder in folders if os.path.exists(os.path.join(folder, name))), None)
        if not file:
            raise NotRunnable(f"{path}: {name} not found")
        found += [(file.removeprefix(sysroot), file), *_foreign_objects(file, sysroot, triplet)]
        if beside := _beside_libc(file):
            found.append((beside.removeprefix(sysroot), beside))
    return found


def shared_objects(path):
    """What a program needs to be started, as the host's loader finds it; nothing for what is linked statically."""
    if machine(path) is None:
        return []
    done = subprocess.run(["ldd", path], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, check=False, env={**os.environ, "LC_ALL": "C"})
    if "not a dynamic executable" in done.stdout + done.stderr or "statically linked" in done.stdout:
        return []
    lost = re.findall(r"^\s*(\S+) => not found", done.stdout, re.M)
    if done.returncode or lost:
        raise NotRunnable(f"ldd {path}: {', '.join(lost) + ' not found' if lost else done.stderr.strip()}")
    found = re.findall(r"(?:=> |^\s*)(/\S+) \(0x", done.stdout, re.M)
    return found + [file for name in found if (file := _beside_libc(name))]


def _beside_libc(path):
    """WITH_LIBC, where the path is that of the C library; None of other paths."""
    file = os.path.join(os.path.dirname(path), WITH_LIBC)
    return file if os.path.basename(path) == "libc.so.6" and os.path.exists(file) else None


class Initramfs:
    """Files by their places in the guest."""

    def __init__(self, kernel, busybox, architecture="amd64"):
        self.entries = {}
        self.architecture = architecture
        self.machine = machine(busybox)
        for name in ("dev", "proc", "root", "sys", "tmp"):
            self.folder("/" + name)
        self.copy("/bin/busybox", busybox)
        for name in APPLETS:
            self._add("/bin/" + name, stat.S_IFLNK | 0o777, b"busybox")
        self.kernel = kernel

    def _add(self, place, mode, data=b""):
        parent = os.path.dirname(place)
        if parent != "/":
            self.folder(parent)
        self.entries[place] = (mode, data)

    def folder(self, place, permissions=0o755):
        if place not in self.entries:
            self._add(place, stat.S_IFDIR | permissions)

    def write(self, place, content, permissions=0o755):
        self._add(place, stat.S_IFREG | permissions, content)

    def copy(self, place, source):
        with open(source, "rb") as file:
            self.write(place, file.read(), stat.S_IMODE(os.stat(source).st_mode))

    def bring(self, path):
        """A file of the host at the same place, with the shared objects it needs; or a folder with all that is in it."""
        place = os.path.abspath(path)
        if os.path.isdir(place):
            self.folder(place)
            for name in sorted(os.listdir(place)):
                if name not in LEFT_OUT:
                    self.bring(os.path.join(place, name))
        elif place not in self.entries:
            if machine(place) not in (None, self.machine):
                raise NotRunnable(f"{place} is no program for {self.architecture}")
            self.copy(place, place)
            if self.architecture != "amd64":
                for name, file in _foreign_objects(place, debian.sysroot(self.architecture), TRIPLETS[self.architecture]):
                    self.copy(name, file)
                return
            for name in shared_objects(place):
                # The loader walks through the folders of its run path, also those that ".." leaves again.
                self.folder(os.path.dirname(os.path.normpath(name)))
                self.copy(os.path.normpath(name), name)

    def modules(self, names):
        """The commands that load these modules, in this order; one that is not there is built in."""
        wanted = [name for name in names if name in self.kernel.modules]
        for name in wanted:
            source = self.kernel.modules[name]
            if source.endswith(".xz"):
                with lzma.open(source) as file:
                    self.write(f"/modules/{name}.ko", file.read())
            else:
                self.copy(f"/modules/{name}.ko", source)
        return "".join(f"insmod /modules/{name}.ko || echo '@error insmod {name}'\n" for name in wanted)

    def save(self, path):
        """Writes the format "newc", which the kernel unpacks. Folders come before what is in them."""
        with open(path + ".partial", "wb") as out:
            for number, (place, (mode, data)) in enumerate(sorted(self.entries.items()), 1):
                _entry(out, number, place[1:], mode, data)
            _entry(out, 0, "TRAILER!!!", 0, b"")
        os.rename(path + ".partial", path)


def _entry(out, number, name, mode, data):
    encoded = name.encode() + b"\0"
    fields = [number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0]
    out.write(b"070701" + b"".join(b"%08X" % field for field in fields) + encoded)
    out.write(b"\0" * (-(6 + 13 * 8 + len(encoded)) % 4))
    out.write(data + b"\0" * (-len(data) % 4))
