#!/usr/bin/python3 -I
"""Runs a program that has a polkit agent at its side: agent.py ANSWER PROGRAM ARGUMENT...

The program starts when the agent is registered for its process. What it writes goes to standard output,
and so does what the agent shows. ANSWER is a password, which pkttyagent(1) is given, behind "late:" only
after half a minute; or "dismiss" or "leave": then the agent is one that closes the dialog at once, or
leaves it open until polkit closes it.
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


def tell(*words):
    print(*words, flush=True)


def start(program):
    """The program's process, which is this same one after its start, and what lets it start."""
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
        shown, answered = b"", False
        while some := os.read(terminal, 4096):
            os.write(1, some)
            shown += some
            if b"Password:" in shown and not answered:
                answered = True
                if late:
                    time.sleep(30)
                # When it turns the echo off, it forgets what was typed before.
                while termios.tcgetattr(terminal)[3] & termios.ECHO:
                    time.sleep(0.01)
                os.write(terminal, password.encode() + b"\n")

    threading.Thread(target=answer, daemon=True).start()
    # pkttyagent closes it when it is registered.
    os.read(registered, 1)


class Agent(dbus.service.Object):
    """As the reference of polkit says, "org.freedesktop.PolicyKit1.AuthenticationAgent Interface"."""

    def __init__(self, process, dismiss):
        dbus.mainloop.glib.DBusGMainLoop(set_as_default=True)
        bus = dbus.SystemBus()
        super().__init__(bus, "/agent")
        self.dismiss = dismiss
        # proc(5): field 22, behind a name that may hold anything.
        with open(f"/proc/{process}/stat", encoding="ascii", errors="replace") as stat:
            began = int(stat.read().rpartition(")")[2].split()[19])
        subject = ("unix-process", {"pid": dbus.UInt32(process), "start-time": dbus.UInt64(began)})
        authority = bus.get_object(AUTHORITY, "/org/freedesktop/PolicyKit1/Authority")
        authority.RegisterAuthenticationAgent(subject, "C", "/agent", dbus_interface=f"{AUTHORITY}.Authority")

    @dbus.service.method(INTERFACE, in_signature="sssa{ss}sa(sa{sv})", async_callbacks=("done", "failed"))
    def BeginAuthentication(self, action, message, icon, details, cookie, identities, done, failed):
        tell(f"opened for {action}: {message}")
        if self.dismiss:
            failed(dbus.DBusException("dismissed", name=f"{AUTHORITY}.Error.Cancelled"))

    @dbus.service.method(INTERFACE, in_signature="s")
    def CancelAuthentication(self, cookie):
        tell("closed by polkit")


process, go = start(sys.argv[2:])
if sys.argv[1] in ("dismiss", "leave"):
    agent = Agent(process, sys.argv[1] == "dismiss")
    threading.Thread(target=GLib.MainLoop().run, daemon=True).start()
else:
    terminal_agent(process, sys.argv[1].removeprefix("late:"), sys.argv[1].startswith("late:"))
os.write(go, b".")
status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
tell("ended with", status)
if sys.argv[1] == "leave":
    # The dialog may outlive its caller, which is not to be.
    threading.Event().wait()
sys.exit(status)
