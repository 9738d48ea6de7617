# SPDX-License-Identifier: MIT
"""Talking to a QEMU over its QMP socket: one command, one answer."""
import json
import shlex
import socket
import struct


class QmpError(Exception):
    """QEMU refused a command, or went away."""


class Qmp:
    """`where` is the path of a QMP socket, or a socket that a QEMU already has the other end of."""

    def __init__(self, where, timeout=60):
        self.path = where if isinstance(where, str) else "QMP"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) if isinstance(where, str) else where
        self.socket.settimeout(timeout)
        if isinstance(where, str):
            self.socket.connect(where)
        self.stream = self.socket.makefile("rw", encoding="utf-8", newline="\n")
        self.events = []
        self._read()  # the greeting
        self.ask("qmp_capabilities")

    def _read(self):
        line = self.stream.readline()
        if not line:
            raise QmpError(f"{self.path}: QEMU closed the connection")
        return json.loads(line)

    def ask(self, command, **arguments):
        """What the command returned. Events that come meanwhile are kept in `events`."""
        self.stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.stream.flush()
        while True:
            answer = self._read()
            if "event" in answer:
                self.events.append(answer)
            elif "error" in answer:
                raise QmpError(f"{command}: {answer['error']['desc']}")
            else:
                return answer["return"]

    def peer(self):
        """The process at the other end, which is QEMU when the socket has a path."""
        return struct.unpack("3i", self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]

    def restore(self, state):
        """Loads what minnow-save wrote into a QEMU started with `-incoming defer`, and lets the guest run."""
        self.ask("migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": True},
                                                           {"capability": "events", "state": True}])
        self.ask("migrate-incoming", uri=f"exec:cat {shlex.quote(state)}")
        while True:
            event = self.events.pop(0) if self.events else self._read()
            status = event.get("data", {}).get("status") if event.get("event") == "MIGRATION" else None
            if status == "completed":
                break
            if status == "failed":
                raise QmpError(f"QEMU could not load {state}; its own messages say why")
        self.ask("cont")  # the guest was paused when it was saved, and so it is restored

    @staticmethod
    def pair():
        """(our socket, the options for a QEMU that inherits the other end, that end)."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        options = ["-chardev", f"socket,id=minnow-qmp,fd={theirs.fileno()}",
                   "-mon", "chardev=minnow-qmp,mode=control"]
        return ours, options, theirs

    def close(self):
        self.stream.close()
        self.socket.close()
