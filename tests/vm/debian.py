# SPDX-License-Identifier: MIT
"""Packages of Debian 12, fetched and unpacked in a cache folder of the user: kernels for guests, and their busybox.

The host stays as it is: apt works with lists and sources of its own, which lie in that folder too. What was fetched once is
kept; remove the folder to get what the archive has today.
"""
import contextlib
import fcntl
import os
import re
import shutil
import subprocess

RELEASE = "bookworm"
SUITES = {"6.1": RELEASE, "newest": f"{RELEASE}-backports"}  # by the name of the kernel
META = "linux-image-cloud-amd64"  # depends on the package that holds the kernel
BUSYBOX = "busybox-static"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
MIRROR = "http://deb.debian.org/debian"
CACHE = os.environ.get("MINNOW_VM_CACHE") or os.path.join(
    os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "minnow-vm")


class NoPackage(RuntimeError):
    """A package that could not be had, and why."""


def _run(*command, **options):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          check=False, **options)
    if done.returncode:
        raise NoPackage(f"{' '.join(command[:1] + command[-2:])} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def _mirror():
    """The archive that the host uses, when it uses Debian's."""
    listing = _run("apt-get", "indextargets", "--format", "$(ORIGIN) $(CODENAME) $(REPO_URI)", "Identifier: Packages")
    found = re.search(r"^Debian [a-z]+ (\S+)$", listing, re.M)  # no suffix: neither updates nor security
    return found.group(1) if found else MIRROR


class Archive:
    """One suite of Debian's archive, with lists of its own under `folder`."""

    def __init__(self, folder, suite):
        self.folder = folder
        self.state = os.path.join(folder, f"apt-{suite}")
        self.source = f"deb [signed-by={KEYRING}] {{}} {suite} main\n"

    def _apt(self, program, *words, **options):
        places = {"Etc::SourceList": "sources.list", "State::Lists": "lists", "Cache": "cache", "State": "state"}
        settings = [f"Dir::{name}={os.path.join(self.state, place)}" for name, place in places.items()]
        settings += ["Dir::Etc::SourceParts=/dev/null", "Dir::State::status=/dev/null", "APT::Sandbox::User=root",
                     "APT::Architecture=amd64", "APT::Architectures::=amd64"]
        return _run(program, "-q", *(word for setting in settings for word in ("-o", setting)), *words, **options)

    def _update(self):
        if os.path.isdir(os.path.join(self.state, "lists")):
            return
        for place in ("lists/partial", "cache/archives/partial", "state"):
            os.makedirs(os.path.join(self.state, place), exist_ok=True)
        with open(os.path.join(self.state, "sources.list"), "w", encoding="ascii") as out:
            out.write(self.source.format(_mirror()))
        try:
            self._apt("apt-get", "-o", "APT::Update::Error-Mode=any", "update")
        except NoPackage:
            shutil.rmtree(self.state)  # or the next one would believe in these lists
            raise

    def depends(self, package, pattern):
        """The package that a meta package stands for today."""
        self._update()
        answer = self._apt("apt-cache", "depends", "--important", package)
        found = re.search(rf"Depends: ({pattern})$", answer, re.M)
        if not found:
            raise NoPackage(f"{package} depends on nothing like {pattern}: {answer}")
        return found.group(1)

    def fetch(self, package):
        """The folder in which a package is unpacked."""
        unpacked = os.path.join(self.folder, package)
        if os.path.isdir(unpacked):
            return unpacked
        self._update()
        partial = unpacked + ".partial"
        shutil.rmtree(partial, ignore_errors=True)
        os.makedirs(partial)
        self._apt("apt-get", "download", package, cwd=partial)
        archive = next(name for name in os.listdir(partial) if name.endswith(".deb"))
        _run("dpkg", "-x", os.path.join(partial, archive), os.path.join(partial, "root"))
        os.rename(os.path.join(partial, "root"), unpacked)
        shutil.rmtree(partial)
        return unpacked


@contextlib.contextmanager
def _locked(folder):
    """Programs that share the cache fetch one after the other."""
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "lock"), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Kernel:
    """An unpacked kernel package."""

    def __init__(self, folder):
        self.folder = folder
        boot = os.path.join(folder, "boot")
        self.image = next(os.path.join(boot, name) for name in os.listdir(boot) if name.startswith("vmlinuz"))
        self.release = os.path.basename(self.image).removeprefix("vmlinuz-")
        self.modules = {}  # files by the names of the modules
        for place, _, names in os.walk(os.path.join(folder, "lib/modules")):
            for name in names:
                if name.endswith((".ko", ".ko.xz")):
                    self.modules[name.split(".")[0].replace("-", "_")] = os.path.join(place, name)


def kernel(name):
    """The kernel of that name: "6.1", or "newest"."""
    with _locked(CACHE):
        archive = Archive(CACHE, SUITES[name])
        chosen = os.path.join(CACHE, f"kernel-{name}")  # holds the package's name
        if not os.path.exists(chosen):
            package = archive.depends(META, r"linux-image-\S+-cloud-amd64")
            archive.fetch(package)
            with open(chosen + ".partial", "w", encoding="ascii") as out:
                out.write(package)
            os.rename(chosen + ".partial", chosen)
        with open(chosen, encoding="ascii") as file:
            return Kernel(archive.fetch(file.read()))


def busybox():
    """The file of a busybox that needs no shared objects."""
    with _locked(CACHE):
        return os.path.join(Archive(CACHE, RELEASE).fetch(BUSYBOX), "bin/busybox")
