#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""minnow top in a terminal of tmux's: what is on the screen, the keys, other sizes, and the end. COMMAND."""
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import command


def state(seconds, images=3):
    """What a daemon might say when it has run so long."""
    def counts(share):
        return {"faults_minor": int(3000 * seconds * share), "faults_missing": int(1000 * seconds * share),
                "fills": int(500 * seconds * share), "fill_bytes": int(seconds * share * 10 * 2**20)}

    def histogram(floor):
        return {"count": 1000 * seconds, "sum_ns": floor * 1000 * seconds, "max_ns": floor * 2,
                "buckets": [[floor, 1000 * seconds]]}

    node = {"node": 0, "resident_bytes": 200 * 2**20, "huge_pages": 70, "huge_pages_free": 33, "queue": histogram(1024), "fill": histogram(2**20), "map": histogram(2048),
            "total": histogram(2**14)}
    return {"version": "0.1.0", "pid": 4242, "epoch": 1, "uptime_ns": seconds * 10**9, "sessions": 3, "messages": 5,
            "pools": [{"name": "main", "backing": "graded", "budget_bytes": 2**30, "resident_bytes": 2**28,
                       "nodes": [node], **counts(1)}],
            "images": [{"name": f"image-{i}", "pool": "main", "size_bytes": 2**29, "page_bytes": 4096,
                        "resident_bytes": 2**26, "views": i, **counts(0.5)} for i in range(images)],
            "views": [{"image": "image-1", "peer": "someone", "pid": 777, "address": 4096, "length": 2**29,
                       "writable": True}]}


class Screen:
    """A terminal with the command in it."""

    def __init__(self, folder, *arguments, columns=80, lines=24, locale="C.UTF-8"):
        self.socket = os.path.join(folder, "tmux")
        self.status = os.path.join(folder, "status")
        if os.path.exists(self.status):
            os.unlink(self.status)
        words = " ".join(f"'{word}'" for word in (command.COMMAND, "top", *arguments))
        script = f"env LC_ALL={locale} TERM=screen {words}; echo $? >'{self.status}.new'; mv '{self.status}.new' '{self.status}'"
        self.tmux("-f", "/dev/null", "new-session", "-d", "-x", str(columns), "-y", str(lines), script)

    def tmux(self, *arguments):
        return subprocess.run(["tmux", "-u", "-S", self.socket, *arguments], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=20, check=False).stdout.decode()

    def text(self):
        return self.tmux("capture-pane", "-p")

    def wait(self, condition, what):
        for _ in range(100):
            text = self.text()
            if condition(text):
                return text
            time.sleep(0.1)
        raise AssertionError(f"not on the screen: {what}\n{text}")

    def wait_for(self, words):
        return self.wait(lambda text: words in text, words)

    def press(self, *keys):
        self.tmux("send-keys", *keys)

    def end(self):
        """The command's exit status."""
        for _ in range(100):
            if os.path.exists(self.status):
                break
            time.sleep(0.1)
        self.tmux("kill-server")
        with open(self.status, encoding="ascii") as file:
            return int(file.read())

    def close(self):
        self.tmux("kill-server")


class Top(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="minnow-top-")
        self.file = os.path.join(self.folder, "state.json")
        self.addCleanup(shutil.rmtree, self.folder)

    def say(self, what):
        with open(self.file + ".new", "w", encoding="utf-8") as file:
            file.write(what if isinstance(what, str) else json.dumps(what))
        os.rename(self.file + ".new", self.file)

    def start(self, *arguments, **options):
        screen = Screen(self.folder, "--file", self.file, "--interval", "0.2", *arguments, **options)
        self.addCleanup(screen.close)
        return screen

    def test_what_it_shows(self):
        self.say(state(100))
        screen = self.start()
        screen.wait_for("pid 4242")
        self.say(state(102))
        text = screen.wait_for("4.0k")
        lines = text.split("\n")
        for words in ("POOL", "graded", "1.0 GiB", "256.0 MiB", "25%", "LATENCY", "fault p50", "200.0 MiB", "33/70", "IMAGE", "image-0", "image-2",
                      "VIEW OF IT BY", "MAP", "q quit", "up 1 min 42 s", "peers 3"):
            self.assertIn(words, text)
        self.assertRegex(text, r"main +graded .* 4\.0k +500 +10\.0\n")
        self.assertRegex(text, r"main +0 +20\.5 us +20\.5 us +200\.0 MiB +33/70 +1\.3 ms")  # the top of the bucket
        self.assertRegex(text, r">image-0 ")
        self.assertLessEqual(max(len(line) for line in lines), 80)
        self.assertIn("q quit", lines[23])
        screen.press("q")
        self.assertEqual(screen.end(), 0)

    def test_keys(self):
        self.say(state(10))
        screen = self.start()
        screen.wait_for(">image-0")
        self.assertNotIn("someone", screen.text())
        screen.press("Down")
        text = screen.wait_for(">image-1")
        self.assertRegex(text, r"someone +777 +0x1000 +0 bytes +512\.0 MiB write")
        screen.press("j", "j", "j")
        screen.wait_for(">image-2")
        screen.press("Up", "k", "k")
        screen.wait_for(">image-0")
        screen.press("Space")
        screen.wait_for("PAUSED")
        self.say(state(500))
        time.sleep(0.6)
        self.assertIn("up 10 s", screen.text())
        screen.press("Space")
        screen.wait_for("up 8 min 20 s")
        screen.press("+")
        screen.wait_for("every 0.4 s")
        screen.press("-", "-")
        screen.wait_for("every 0.1 s")
        screen.press("x", "Escape")
        screen.press("Q")
        self.assertEqual(screen.end(), 0)

    def test_sizes(self):
        self.say(state(10, images=12))
        screen = self.start()
        screen.wait_for("image-5")
        for columns, lines in ((120, 40), (40, 10), (20, 5), (10, 2), (3, 1), (200, 60), (80, 24)):
            screen.tmux("resize-window", "-x", str(columns), "-y", str(lines))
            screen.wait(lambda text, lines=lines: len(text.rstrip("\n").split("\n")) <= lines and text.strip(), "anything")
        screen.wait_for("image-5")
        screen.press(*["Down"] * 11)
        text = screen.wait_for(">image-11")  # the list moves along
        self.assertNotIn("image-0 ", text)
        self.say(state(11, images=1))  # the chosen one has gone
        screen.wait_for(">image-0")
        self.say(state(12, images=0))
        screen.wait_for("no image")
        screen.press("q")
        self.assertEqual(screen.end(), 0)

    def test_trouble_is_told_and_ends(self):
        self.say(state(10))
        screen = self.start()
        screen.wait_for("pid 4242")
        self.say("{\"pools\":[")
        screen.wait_for("no JSON object")
        self.assertIn("image-0", screen.text())  # what was known stays
        self.say(state(11))
        screen.wait_for("q quit")
        screen.press("q")
        self.assertEqual(screen.end(), 0)

    def test_plain_terminals(self):
        self.say(state(10))
        for locale in ("C", "C.UTF-8"):
            screen = self.start("--ascii", locale=locale)
            screen.wait_for(">image-0")
            screen.press("q")
            self.assertEqual(screen.end(), 0)

    def test_signal_gives_the_terminal_back(self):
        self.say(state(10))
        screen = self.start()
        screen.wait_for("pid 4242")
        shell = int(screen.tmux("display-message", "-p", "#{pane_pid}"))
        with open(f"/proc/{shell}/task/{shell}/children", encoding="ascii") as file:
            os.kill(int(file.read().split()[0]), signal.SIGTERM)
        self.assertEqual(screen.end(), 0)

    def test_refused(self):
        for culprit, arguments in (("needs a terminal", []), ("'x'", ["--interval", "x"]), ("'0'", ["--interval", "0"]),
                                   ("exclude", ["--file", "a", "--socket", "b"]), ("--frob", ["--frob"]),
                                   ("'more'", ["more"])):
            done = command.run("top", *arguments)
            self.assertEqual((done.returncode, done.stdout), (2, ""), arguments)
            self.assertIn(culprit, done.stderr, arguments)

    def test_nothing_there(self):
        screen = Screen(self.folder, "--file", "/nowhere/x")
        self.addCleanup(screen.close)
        self.assertEqual(screen.end(), 1)


if __name__ == "__main__":
    os.environ.pop("TMUX", None)
    if not shutil.which("tmux"):
        print("no tmux here")
        sys.exit(77)
    command.main()
