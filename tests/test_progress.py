"""Log lines on the terminal, as the commands write them."""

import logging
import subprocess
import sys
from io import StringIO

from genre_cls.progress import LogHandler

ADDRESS = "https://ann:hunter2@runs.example/a"


def test_log_lines_have_no_passwords() -> None:
    handler = LogHandler(stream := StringIO())
    handler.emit(logging.LogRecord("a", logging.INFO, "a.py", 1, "look at %s, %d runs", (ADDRESS, 2), None))
    assert stream.getvalue() == "look at https://runs.example/a, 2 runs\n"


def test_nor_have_those_of_commands_without_hydra() -> None:
    code = (
        "import logging\nfrom genre_cls.configuration.commands import as_command\n"
        f"with as_command():\n    logging.getLogger('genre_cls.mine').warning('left out: %s', {ADDRESS!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "left out: https://runs.example/a\n")
