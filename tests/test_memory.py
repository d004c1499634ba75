"""Memory that is kept by the process that has freed it."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from genre_cls.memory import keep_freed

if sys.argv[1] == "kept":
    keep_freed()

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(1 << 24)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults(), faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone is told to keep memory")
def test_what_was_freed_once_is_not_fetched_from_the_system_again() -> None:
    def faults(how: str) -> list[int]:
        done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
        return [int(count) for count in done.stdout.split()]

    (_, without), (first, second) = faults("given back"), faults("kept")
    assert second * 100 < first and second * 100 < without
