"""What the process that workers are forks of imports first: by this it ends with the main one, whatever it is at.

By itself it would look for the main process only after all its imports, which take seconds.
"""

import ctypes
import signal

PR_SET_PDEATHSIG = 1  # of prctl(2)

ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
