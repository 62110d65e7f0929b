"""Learns from every outcome, off the request path. Plain class; ``app.py`` makes the actor.

What "acknowledged" means: ``record`` and ``feedback`` return when their data is durable.
Memory is updated at once; a group of waiting calls then shares one commit. When the store
refuses, the calls fail with ``StoreError``, the data stays in a bounded buffer that is
tried again, and sending the same batch id again is harmless. A full buffer takes nothing
in, so the sender keeps it. Evidence is saved with the id of the last outcome in it, in the
commit that writes that outcome: a restart adds exactly what is missing.
"""

from __future__ import annotations

import asyncio
import difflib
import logging
import math
import re
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import count
from typing import Any

from hotswap_ray.actors.learning_log import Batch, LearningLog, Score
from hotswap_ray.core.errors import Conflict, InvalidRequest, NotFound
from hotswap_ray.core.evidence import HALF_LIFE, Evidence, group, problem
from hotswap_ray.core.learnings import Complexity, TaskKnowledge, TransferRecord, transfer
from hotswap_ray.core.recent import RecentLatencies
from hotswap_ray.core.spec import Preferences, TaskSpec
from hotswap_ray.core.types import Criteria, Outcome
from hotswap_ray.store import Store
