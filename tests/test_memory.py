"""Freed memory: what the process keeps, and what it returns to the system."""

import subprocess
import sys

import pytest

# Resident memory shows on every kernel whether memory was kept; some count no page faults.
HELD = """
import re, sys
from genre_cls.processes.memory import keep_freed

def held():
    return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024  # MB
"""

STEPS = """
import numpy as np

if sys.argv[1] == "kept":
    keep_freed()

first = held()
for _ in range(4):
    maps = [np.ones(40 * 2**17) for _ in range(5)]  # of 40 MB; glibc maps every block above 32 MB apart
    del maps
    print(held() - first)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc is told to keep memory")
def test_memory_that_a_step_frees_is_kept_and_reused_by_the_next_steps() -> None:
    given_back, kept = (_printed(HELD + STEPS, how) for how in ("given back", "kept"))
    assert kept[0] > 4 * max(given_back)
    assert kept[-1] < 2 * kept[0]


LEFT = """
keep_freed()
blocks = [bytearray(b"1" * 2**20) for _ in range(300)]
lasting = blocks[::100]
del blocks
kept = held()
keep_freed()
print(kept - held())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc is told to keep memory")
def test_memory_that_one_model_leaves_is_returned_before_the_next() -> None:
    (given_back,) = _printed(HELD + LEFT)
    assert 250 < given_back <= 300


def _printed(script: str, *arguments: str) -> list[int]:
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
    return [int(line) for line in done.stdout.split()]
