"""The last import of the process that workers are forked from: what was imported stays shared with them.

Garbage collections write to each object that they visit, so that every worker would get a copy of all of them.
"""

import gc

gc.freeze()
