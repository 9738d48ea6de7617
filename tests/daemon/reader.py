#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A consumer that compares every byte it reads: SOCKET IMAGE PAGES SEED [WRITABLE]. Ends when its standard input does;
prints JSON.

It maps the image, touches pages in a random order, and now and then gives its view back and attaches another (a share
of WRITABLE of them writable), so that the daemon is also killed in the middle of that. A request that was not answered
is sent again after EVENT_RESTARTED.
"""
import json
import random
import select
import struct
import sys
import time

import peer


class Reader(peer.Peer):
    """Sends again what was not answered when the daemon was restarted."""

    def ask(self, kind, body=b"", fds=()):
        request = self.start(kind, body, fds)
        while True:
            answer = self.receive()
            if answer.request == request:
                return answer
            if answer.kind == peer.EVENT_RESTARTED:
                self.restarts = getattr(self, "restarts", 0) + 1
                for fd in answer.fds:
                    peer.os.close(fd)
                self.send(peer.message(kind, request, body), fds)
            elif answer.kind in (peer.EVENT_DETACHED, peer.EVENT_ENDED):
                raise peer.Gone(repr(answer))


def main():
    path, image, pages, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    writable = float(sys.argv[5]) if len(sys.argv) > 5 else 0.3
    chance = random.Random(seed)
    session = Reader(path, timeout=60)
    result = {"reads": 0, "wrong": 0, "attaches": 0, "longest": 0.0}
    view = None
    number = 0
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        if view is None:
            number += 1
            view = peer.View(session, image, view=number, writable=chance.random() < writable)
            result["attaches"] += 1
        for _ in range(200):
            page = chance.randrange(pages)
            begin = time.monotonic()
            data = view.read(page * peer.PAGE, peer.PAGE)
            took = time.monotonic() - begin
            result["reads"] += 1
            result["longest"] = max(result["longest"], took)
            if data != peer.page_bytes(page):
                result["wrong"] += 1
        if chance.random() < 0.05:
            # Twice detached is fine: the answer may have been lost with a worker.
            assert view.close().status in (0, -2)
            view = None
    result["restarts"] = getattr(session, "restarts", 0)
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
