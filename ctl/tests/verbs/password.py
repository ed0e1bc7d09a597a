"""Runs a program on a terminal, and answers its password prompt: password.py ANSWER PROGRAM ARGUMENT...

Prints everything that the terminal shows, then the exit status of the program, and then the echo of the
terminal: on or off. The terminal is the controlling terminal of the program. The password is typed two seconds after
the prompt. If ANSWER is "interrupt", Ctrl-C is pressed instead. If there is no prompt, nothing is typed.
"""
import os
import sys
import termios
import time

CTRL_C = b"\x03"


def echo(terminal):
    return bool(termios.tcgetattr(terminal)[3] & termios.ECHO)


answer, *program = sys.argv[1:]
# This process keeps the program's end open, so that its settings remain readable.
terminal, other_end = os.openpty()
process = os.fork()
if process == 0:
    os.close(terminal)
    os.login_tty(other_end)
    os.execvp(program[0], program)
os.set_blocking(terminal, False)

shown, answered, status = b"", False, None
while True:
    try:
        shown += os.read(terminal, 4096)
        continue
    except BlockingIOError:
        pass
    if status is not None:
        break
    # The agent discards earlier input when it disables the echo.
    if b"Password:" in shown and not answered and not echo(other_end):
        answered = True
        time.sleep(2)
        os.write(terminal, CTRL_C if answer == "interrupt" else answer.encode() + b"\n")
    exited, wait_status = os.waitpid(process, os.WNOHANG)
    if exited:
        status = os.waitstatus_to_exitcode(wait_status)
    else:
        time.sleep(0.01)
print(shown.decode(errors="replace").replace("\r\n", "\n"))
print("exited with status", status)
print("echo is", "on" if echo(other_end) else "off")
