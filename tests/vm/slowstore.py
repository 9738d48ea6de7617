# SPDX-License-Identifier: MIT
"""An image file on a store that is slow, or fails: nbdkit serves the file with its delay and error filters, nbdfuse makes
it a file again. Read past the kernel's page cache (O_DIRECT), or most reads would never get here."""
import os
import shutil
import subprocess
import time

PROGRAMS = ("nbdkit", "nbdfuse")


def lacking():
    """What this machine lacks for such a store; "" when nothing."""
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if missing:
        return f"{', '.join(missing)} not installed"
    return "" if os.path.exists("/dev/fuse") else "no /dev/fuse"


class SlowStore:
    def __init__(self, folder, image, delay_ms=0, error_percent=0):
        self.mount = os.path.join(folder, "slow")
        self.trigger = os.path.join(folder, "slow-fails")
        socket = os.path.join(folder, "slow-nbd")
        for path in (self.trigger, socket):
            if os.path.exists(path):
                os.remove(path)
        os.makedirs(self.mount, exist_ok=True)
        self.log = open(os.path.join(folder, "log-slow"), "wb")
        self.children = []
        self.mounted = False
        filters = ["--filter=delay", f"rdelay={delay_ms}ms"]
        if error_percent:
            filters += ["--filter=error", "error-pread=EIO", f"error-pread-rate={error_percent}%",
                        f"error-pread-file={self.trigger}"]
        options = [word for word in filters if word.startswith("--")]
        parameters = [word for word in filters if not word.startswith("--")]
        try:
            self._start(["nbdkit", "-f", "-U", socket, "-t", "64", *options, "file", image, *parameters],
                        lambda: os.path.exists(socket))
            self._start(["nbdfuse", "-r", os.path.join(self.mount, "image"), "--unix", socket],
                        lambda: os.path.ismount(self.mount))
        except BaseException:
            self.close()
            raise
        self.mounted = True
        self.path = os.path.join(self.mount, "image")
        self.uri = f"file://{self.path}?direct=1"

    def _start(self, command, is_up):
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT)
        self.children.append(child)
        deadline = time.monotonic() + 20
        while not is_up():
            if child.poll() is not None or time.monotonic() > deadline:
                with open(self.log.name, encoding="utf-8", errors="replace") as log:
                    raise RuntimeError(f"{command[0]} did not start: {log.read()[-1000:]}")
            time.sleep(0.01)

    def fail(self, failing):
        """From now on some reads fail, or none does."""
        if failing:
            with open(self.trigger, "w", encoding="ascii"):
                pass
        elif os.path.exists(self.trigger):
            os.remove(self.trigger)

    def errors(self):
        """How many reads have failed."""
        self.log.flush()
        with open(self.log.name, "rb") as log:
            return log.read().count(b"injecting EIO")

    def close(self):
        if self.mounted or os.path.ismount(self.mount):
            # Lazily: a reader that is still there must not keep the test from ending.
            subprocess.run(["umount", "-l", self.mount], check=False)
        for child in reversed(self.children):
            if child.poll() is None:
                child.terminate()
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self.log.close()
