# SPDX-License-Identifier: MIT
"""minnow-save and minnow-restore when they cannot do what they are asked. The machines here boot nothing."""
import json
import os
import subprocess
import tempfile
import unittest

import bed
from machine import Hang, Machine, Qmp


def tool(name, *arguments):
    return subprocess.run([os.path.join(bed.TOOLS, name), *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=30, check=False)


class Tools(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="minnow-vm-")
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.socket = os.path.join(self.folder, "qmp")

    def idle_machine(self, *memory):
        """A QMP connection to a machine that does nothing."""
        process = subprocess.Popen([bed.QEMU, "-machine", "pc,accel=tcg", "-m", "64M", "-nodefaults", "-display", "none", *memory,
                                    "-qmp", f"unix:{self.folder}/qmp-test,server=on,wait=off",
                                    "-qmp", f"unix:{self.socket},server=on,wait=off"], stdin=subprocess.DEVNULL)
        self.addCleanup(lambda: (process.terminate(), process.wait(20)))
        while not os.path.exists(self.socket):
            self.assertIsNone(process.poll(), "QEMU did not start")
        qmp = Qmp(f"{self.folder}/qmp-test")
        self.addCleanup(qmp.close)
        return qmp

    def shared(self):
        return ["-object", f"memory-backend-file,id=ram,size=64M,mem-path={self.folder}/memory,share=on",
                "-machine", "memory-backend=ram"]

    def refused(self, why, directory="saved"):
        said = tool("minnow-save", self.socket, os.path.join(self.folder, directory))
        self.assertEqual(said.returncode, 1, said.stdout)
        self.assertIn(why, said.stdout)
        self.assertFalse(os.path.exists(os.path.join(self.folder, "saved", "ram")))

    def test_memory_that_is_private_is_not_saved(self):
        qmp = self.idle_machine(*[word.replace("share=on", "share=off") for word in self.shared()])
        self.refused("lacks share=on")
        self.assertEqual(qmp.ask("query-status")["status"], "running")

    def test_memory_that_is_no_file_is_not_saved(self):
        qmp = self.idle_machine()
        self.refused("memory backend")
        self.assertEqual(qmp.ask("query-status")["status"], "running")

    def test_memory_in_a_file_that_is_not_the_one_at_its_path_is_not_saved(self):
        qmp = self.idle_machine(*self.shared())
        os.rename(f"{self.folder}/memory", f"{self.folder}/memory-of-the-guest")
        with open(f"{self.folder}/memory", "wb") as file:
            file.truncate(64 << 20)
        self.refused("is not what the guest's memory is mapped from")
        self.assertEqual(qmp.ask("query-status")["status"], "running")

    def test_a_save_that_fails_lets_the_guest_go_on(self):
        qmp = self.idle_machine(*self.shared())
        os.makedirs(os.path.join(self.folder, "saved", "state"))  # a folder is where the state should go
        self.refused("state")
        self.assertEqual(qmp.ask("query-status")["status"], "running")
        self.assertEqual(os.listdir(os.path.join(self.folder, "saved")), ["state"])

    def test_a_guest_can_be_saved_again_and_again(self):
        qmp = self.idle_machine(*self.shared())
        for _ in range(2):
            said = tool("minnow-save", "--then", "resume", self.socket, os.path.join(self.folder, "saved"))
            self.assertEqual(said.returncode, 0, said.stdout)
            self.assertEqual(qmp.ask("query-status")["status"], "running")
        self.assertEqual(os.path.getsize(os.path.join(self.folder, "saved", "ram")), 64 << 20)

    def test_restore_says_what_it_would_run(self):
        with open(os.path.join(self.folder, "about.json"), "w", encoding="utf-8") as file:
            json.dump({"memory": "ram", "bytes": 64 << 20}, file)
        said = tool("minnow-restore", "--show", "--clones", "2", "--socket", "/run/x", self.folder, "--", "qemu", "-n{n}")
        self.assertEqual(said.returncode, 0, said.stdout)
        lines = said.stdout.splitlines()
        self.assertEqual(len(lines), 2)
        for number, line in enumerate(lines, 1):
            for part in (f"minnow run --map {self.folder}/ram={os.path.basename(self.folder)}", "--socket /run/x", f"qemu -n{number}", f"mem-path={self.folder}/ram,share=off"):
                self.assertIn(part, line)

    def test_restore_of_nothing_says_so(self):
        said = tool("minnow-restore", self.folder, "--", "qemu")
        self.assertEqual(said.returncode, 1)
        self.assertIn("no saved guest", said.stdout)


class Harness(unittest.TestCase):
    def test_a_guest_that_hangs_is_ended_and_its_console_shown(self):
        with tempfile.TemporaryDirectory(prefix="minnow-vm-") as folder:
            hung = Machine(folder, "hung", [bed.QEMU, "-machine", "pc,accel=tcg", "-m", "64M", "-nodefaults", "-display",
                                            "none"], timeout=1)
            try:
                hung.console.text += b"the last words\n"
                with self.assertRaisesRegex(Hang, "the last words(?s:.*)QEMU runs"):
                    hung.ask("ping x", "@pong x")
            finally:
                hung.end()
            self.assertIsNotNone(hung.process.returncode)
