"""Types a line into an interactive shell: type.py START LINE SHELL ARGUMENT...

START prepares the shell. Prints everything that the terminal shows until LINE has run.
"""
import os
import pty
import sys

start, line, *shell = sys.argv[1:]
process, terminal = pty.fork()
if process == 0:
    os.execvp(shell[0], shell)


def type_until(text, marker):
    """Types text, and returns what the terminal shows until the marker."""
    os.write(terminal, text.encode())
    shown = b""
    while marker not in shown:
        try:
            chunk = os.read(terminal, 4096)
        except OSError:
            break
        if not chunk:
            break
        shown += chunk
    return shown.decode(errors="replace")


# The quotes keep the echo of the input different from the output.
type_until(start + "; echo rea''dy\n", b"ready")
print(type_until(line + "; echo do''ne\n", b"done"))
os.close(terminal)
os.waitpid(process, 0)
