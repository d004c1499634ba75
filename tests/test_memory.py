"""Memory that is kept by the process that has freed it, and what goes back."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from genre_cls.memory import keep_freed

if sys.argv[1] == "kept":
    keep_freed()

def step():
    maps = torch.randn(16, 1, 128, 128, requires_grad=True)
    for layer in layers:
        maps = torch.nn.functional.max_pool2d(layer(maps).relu(), 2)
    maps.sum().backward()

layers = [torch.nn.Conv2d(n_in, 16, 3, padding=1) for n_in in (1, 16, 16)]
for n in range(6):
    if n == 3:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone is told to keep memory")
def test_steps_of_training_fetch_less_from_the_system_when_freed_memory_is_kept() -> None:
    def faults(how: str) -> int:
        done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert faults("kept") * 2 < faults("given back")


LEFT = """
import re
from genre_cls.memory import keep_freed

def held():
    return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024  # MB

keep_freed()
blocks = [bytearray(b"1" * 2**20) for _ in range(300)]
lasting = blocks[::100]
del blocks
kept = held()
keep_freed()
print(kept - held())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone is told to keep memory")
def test_what_one_model_has_left_goes_back_before_the_next() -> None:
    done = subprocess.run([sys.executable, "-c", LEFT], capture_output=True, text=True, check=True)
    assert 250 < int(done.stdout) <= 300
