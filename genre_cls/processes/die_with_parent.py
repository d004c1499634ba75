"""The first import of the process that workers are forked from: it ends with the main process, whatever it is doing.

By itself it would notice the main process's end only after all its imports, which take seconds. To collect garbage
among what they make would take a sixth of that time; workers collect theirs (`workers._begin`).
"""

import ctypes
import gc
import signal

PR_SET_PDEATHSIG = 1  # of prctl(2)

ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
gc.disable()
