# SPDX-License-Identifier: MIT
"""Packages of Debian 12, fetched and unpacked in a cache folder of the user: kernels for guests, their busybox, and what
programs for another architecture are built against.

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
ARCHITECTURES = ("amd64", "arm64")
# Suites and meta packages by the names of kernels. The last one has base pages of 16 KiB, and is for arm64 alone.
KERNELS = {"6.1": (RELEASE, "linux-image-cloud-%s"), "newest": (f"{RELEASE}-backports", "linux-image-cloud-%s"),
           "16k": (f"{RELEASE}-backports", "linux-image-%s-16k")}
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
    """One suite of Debian's archive for one architecture, with lists of its own in that one's part of the cache."""

    def __init__(self, suite, architecture):
        self.architecture = architecture
        self.folder = _folder(architecture)
        self.state = os.path.join(self.folder, f"apt-{suite}")
        self.source = f"deb [signed-by={KEYRING}] {{}} {suite} main\n"

    def _apt(self, program, *words, **options):
        places = {"Etc::SourceList": "sources.list", "State::Lists": "lists", "Cache": "cache", "State": "state"}
        settings = [f"Dir::{name}={os.path.join(self.state, place)}" for name, place in places.items()]
        settings += ["Dir::Etc::SourceParts=/dev/null", "Dir::State::status=/dev/null", "APT::Sandbox::User=root",
                     f"APT::Architecture={self.architecture}", f"APT::Architectures::={self.architecture}"]
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

    def _kept(self, name, fill):
        """The folder of that name in the cache, which `fill(folder, root)` fills once."""
        kept = os.path.join(self.folder, name)
        if os.path.isdir(kept):
            return kept
        self._update()
        partial = kept + ".partial"
        root = os.path.join(partial, "root")
        shutil.rmtree(partial, ignore_errors=True)
        os.makedirs(root)
        fill(partial, root)
        os.rename(root, kept)
        shutil.rmtree(partial)
        return kept

    def fetch(self, package):
        """The folder in which a package is unpacked."""
        def fill(folder, root):
            self._apt("apt-get", "download", package, cwd=folder)
            _unpack(folder, root)
        return self._kept(package, fill)

    def fetch_all(self, name, packages):
        """The folder in which these packages are unpacked, and those that they depend on."""
        def fill(folder, root):
            os.makedirs(os.path.join(folder, "partial"))
            self._apt("apt-get", "-o", f"Dir::Cache::archives={folder}", "install", "--download-only", "--yes",
                      "--no-install-recommends", *packages)
            _unpack(folder, root)
            for place, folders, files in os.walk(root):  # links to "/..." are meant for the root that this will be
                for link in (os.path.join(place, file) for file in folders + files):
                    if os.path.islink(link) and (target := os.readlink(link)).startswith("/"):
                        os.remove(link)
                        os.symlink(os.path.relpath(root + target, place), link)
        return self._kept(name, fill)


def _folder(architecture):
    return CACHE if architecture == "amd64" else os.path.join(CACHE, architecture)


def _unpack(folder, root):
    for name in sorted(os.listdir(folder)):
        if name.endswith(".deb"):
            _run("dpkg", "-x", os.path.join(folder, name), root)


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


def kernel(name, architecture="amd64"):
    """The kernel of that name: "6.1", "newest" or "16k"."""
    suite, meta = KERNELS[name]
    with _locked(CACHE):
        archive = Archive(suite, architecture)
        chosen = os.path.join(archive.folder, f"kernel-{name}")  # holds the package's name
        if not os.path.exists(chosen):
            package = archive.depends(meta % architecture, r"linux-image-\S+")
            archive.fetch(package)
            with open(chosen + ".partial", "w", encoding="ascii") as out:
                out.write(package)
            os.rename(chosen + ".partial", chosen)
        with open(chosen, encoding="ascii") as file:
            return Kernel(archive.fetch(file.read()))


def busybox(architecture="amd64"):
    """The file of a busybox that needs no shared objects."""
    with _locked(CACHE):
        return os.path.join(Archive(RELEASE, architecture).fetch(BUSYBOX), "bin/busybox")


def sysroot(architecture):
    """The folder with the libraries and headers that minnow is built against for that architecture."""
    with open(os.path.join(os.path.dirname(os.path.realpath(__file__)), "../../tools/packages.txt"), encoding="ascii") as listing:
        packages = [line.strip() for line in listing if re.fullmatch(r"lib\S+-dev\s*", line)]
    with _locked(CACHE):
        return Archive(RELEASE, architecture).fetch_all("sysroot", ["libc6-dev", *packages])
