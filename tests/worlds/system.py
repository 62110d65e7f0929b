"""What is done to a running system: conversations with it, and the death of its processes."""

import os
import signal
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import psutil

LENGTH = 10  # requests of a conversation: those under way stay, new ones are divided


class Talk:
    """Conversations that go on in threads; who answered each, and when."""

    def __init__(self, system, task):
        self._system = system
        self._task = task
        self._stop = threading.Event()
        self.answers = defaultdict(list)
        self.failed = []

    def __enter__(self):
        self._pool = ThreadPoolExecutor(8)
        self._running = [self._pool.submit(self._run, n) for n in range(8)]
        return self

    def __exit__(self, *_):
        self._stop.set()
        for running in self._running:
            running.result(60)

    def _run(self, first):
        asked = 0
        while not self._stop.is_set():
            session = f"{self._task}-{first}-{asked // LENGTH}"
            asked += 1
            response = self._system.http.post(
                "/v1/chat/completions",
                json={
                    "model": f"auto:{self._task}",
                    "messages": [{"role": "user", "content": "x"}],
                },
                headers={"x-session-id": session},
            )
            if response.status_code != 200:
                self.failed.append(response.text)
                continue
            model = response.headers["x-hotswap-model"]
            self.answers[session].append((time.time(), model))


def kill(title, sign=signal.SIGKILL):
    """Send a signal to our own Ray processes with this title; returns how many."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            words = process.cmdline()
        except psutil.NoSuchProcess:
            continue
        if words and words[0].startswith(f"ray::{title}"):
            found.append(process.pid)
    for pid in found:
        os.kill(pid, sign)
    return len(found)
