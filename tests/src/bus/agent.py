#!/usr/bin/python3 -I
"""Runs a program with a polkit authentication agent: agent.py ANSWER PROGRAM ARGUMENT...

The program starts when the agent is registered for its process. The output of both goes to standard
output. ANSWER is a password, which is entered into pkttyagent(1). With the prefix "late:", it is entered
after 30 seconds. If ANSWER is "dismiss" or "leave", the agent in this file is used instead. It
cancels the dialog immediately, or leaves it open until polkit closes it.
"""
import os
import pty
import sys
import termios
import threading
import time

import dbus
import dbus.mainloop.glib
import dbus.service
from gi.repository import GLib

AUTHORITY = "org.freedesktop.PolicyKit1"
INTERFACE = "org.freedesktop.PolicyKit1.AuthenticationAgent"


def report(*words):
    print(*words, flush=True)


def start(program):
    """Returns the process ID of the program, and the pipe that starts the program when it is written to."""
    wait, go = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(go)
        os.read(wait, 1)
        os.dup2(1, 2)
        os.execvp(program[0], program)
    return process, go


def terminal_agent(process, password, late):
    registered, notify = os.pipe()
    os.set_inheritable(notify, True)
    agent, terminal = pty.fork()
    if agent == 0:
        os.execvp("pkttyagent", ["pkttyagent", "--process", str(process), "--notify-fd", str(notify)])
    os.close(notify)

    def answer():
        output, answered = b"", False
        while chunk := os.read(terminal, 4096):
            os.write(1, chunk)
            output += chunk
            if b"Password:" in output and not answered:
                answered = True
                if late:
                    time.sleep(30)
                # pkttyagent discards earlier input when it disables the echo.
                while termios.tcgetattr(terminal)[3] & termios.ECHO:
                    time.sleep(0.01)
                os.write(terminal, password.encode() + b"\n")

    threading.Thread(target=answer, daemon=True).start()
    # pkttyagent closes the other end when it is registered.
    os.read(registered, 1)


class Agent(dbus.service.Object):
    """Implements the "org.freedesktop.PolicyKit1.AuthenticationAgent Interface" of polkit's reference."""

    def __init__(self, process, dismiss):
        dbus.mainloop.glib.DBusGMainLoop(set_as_default=True)
        bus = dbus.SystemBus()
        super().__init__(bus, "/agent")
        self.dismiss = dismiss
        # Field 22 in proc(5). The name before it can contain any character.
        with open(f"/proc/{process}/stat", encoding="ascii", errors="replace") as stat:
            start_time = int(stat.read().rpartition(")")[2].split()[19])
        subject = ("unix-process", {"pid": dbus.UInt32(process), "start-time": dbus.UInt64(start_time)})
        authority = bus.get_object(AUTHORITY, "/org/freedesktop/PolicyKit1/Authority")
        authority.RegisterAuthenticationAgent(subject, "C", "/agent", dbus_interface=f"{AUTHORITY}.Authority")

    @dbus.service.method(INTERFACE, in_signature="sssa{ss}sa(sa{sv})", async_callbacks=("done", "failed"))
    def BeginAuthentication(self, action, message, icon, details, cookie, identities, done, failed):
        report(f"opened for {action}: {message}")
        if self.dismiss:
            failed(dbus.DBusException("dismissed", name=f"{AUTHORITY}.Error.Cancelled"))

    @dbus.service.method(INTERFACE, in_signature="s")
    def CancelAuthentication(self, cookie):
        report("closed by polkit")


process, go = start(sys.argv[2:])
if sys.argv[1] in ("dismiss", "leave"):
    agent = Agent(process, sys.argv[1] == "dismiss")
    threading.Thread(target=GLib.MainLoop().run, daemon=True).start()
else:
    terminal_agent(process, sys.argv[1].removeprefix("late:"), sys.argv[1].startswith("late:"))
os.write(go, b".")
status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
report("exited with status", status)
if sys.argv[1] == "leave":
    # Keep the agent running, to show that the dialog does not outlive its caller.
    threading.Event().wait()
sys.exit(status)
