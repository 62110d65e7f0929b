"""Checks that misbehave, for the judge's process to import: nothing slow is imported with them."""

import os
import time
from contextlib import suppress


def loops(request, answer):
    """Never ends."""
    while True:
        with suppress(Exception):
            time.monotonic()


def clings(request, answer):
    """Never ends, and no timer can interrupt it."""
    while True:
        with suppress(BaseException):
            while True:
                time.monotonic()


def leaves(request, answer):
    """Takes its process down."""
    os._exit(1)
