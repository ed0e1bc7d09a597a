#!/usr/bin/python3
"""Runs a command when a magic packet for a configured MAC address arrives: wakevirt-commands.py CONFIGURATION

It can start things that libvirt does not manage: containers, systemd units, Proxmox or Incus VMs. It needs Python 3.11
and the Debian packages python3-dbus and python3-gi. Any user can run it. The commands run with the permissions of this
user, without a shell.

Each [[command]] table in the configuration has these keys:

  mac         the MAC address in the magic packet
  run         the absolute path of the program, and its arguments
  interfaces  the interfaces on which the packet can arrive (default: all)
  cool-down   for how many seconds packets are ignored after the command is started (default: 10)

wakevirt-capture announces packets from anyone who can reach the host. Therefore, the tables are an allowlist: a command
runs only for packets for its MAC address that arrive on its interfaces. No part of a packet becomes an argument of the
command.
"""

import os
import re
import subprocess
import sys
import time
import tomllib

import dbus
from dbus.mainloop.glib import DBusGMainLoop
from gi.repository import GLib

CAPTURE = "org.wakevirt.Capture1"
KEYS = {"mac", "run", "interfaces", "cool-down"}


class Command:
    """A [[command]] table of the configuration."""

    def __init__(self, entry):
        if unknown := set(entry) - KEYS:
            raise ValueError(f"unknown key {min(unknown)!r}; the keys are: {', '.join(sorted(KEYS))}")
        self.mac = entry.get("mac", "")
        if not isinstance(self.mac, str) or not re.fullmatch("([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}", self.mac):
            raise ValueError(f"mac = {self.mac!r} is not a MAC address such as 52:54:00:12:34:56")
        self.mac = self.mac.lower()
        self.run = strings(entry, "run", [])
        if not self.run or not os.path.isabs(self.run[0]):
            raise ValueError('run must be a list that begins with an absolute path, such as ["/usr/bin/podman", "start"]')
        self.interfaces = strings(entry, "interfaces", None)
        self.cool_down = entry.get("cool-down", 10)
        if not isinstance(self.cool_down, int) or self.cool_down < 0:
            raise ValueError(f"cool-down = {self.cool_down!r} is not a whole number of seconds")
        self.process = None
        self.started = float("-inf")

    def reason_to_ignore(self, interface):
        if self.interfaces is not None and interface not in self.interfaces:
            return "this interface is not allowed"
        if self.process is not None:
            return "the command is still running"
        if time.monotonic() - self.started < self.cool_down:
            return "the command was started less than cool-down ago"
        return None

    def start(self):
        self.started = time.monotonic()
        try:
            self.process = subprocess.Popen(self.run, stdin=subprocess.DEVNULL)
        except OSError as error:
            print(f"{self.mac}: cannot run {self.run[0]}: {error.strerror}", flush=True)
            return
        GLib.child_watch_add(GLib.PRIORITY_DEFAULT, self.process.pid, self.exited)

    def exited(self, _pid, status):
        self.process = None
        code = os.waitstatus_to_exitcode(status)
        print(f"{self.mac}: {self.run[0]} exited with {code}", flush=True)


def strings(entry, key, default):
    value = entry.get(key, default)
    if value is not default and not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
        raise ValueError(f"{key} = {value!r} is not a list of strings")
    return value


def read(path):
    """Returns the commands in a configuration file, by MAC address."""
    with open(path, "rb") as file:
        content = tomllib.load(file)
    if unknown := set(content) - {"command"}:
        raise ValueError(f"unknown key {min(unknown)!r}; the file can contain only [[command]] tables")
    commands = {}
    for entry in content.get("command", []):
        command = Command(entry)
        if command.mac in commands:
            raise ValueError(f"two [[command]] tables have mac = {command.mac!r}")
        commands[command.mac] = command
    return commands


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: wakevirt-commands.py CONFIGURATION")
    try:
        commands = read(sys.argv[1])
    except (OSError, ValueError) as error:
        sys.exit(f"cannot use {sys.argv[1]}: {error}")

    def received(_sequence, mac, details):
        if command := commands.get(str(mac)):
            interface = str(details.get("interface", ""))
            reason = command.reason_to_ignore(interface)
            print(f"{mac} on {interface}: {'ignored, ' + reason if reason else command.run[0]}", flush=True)
            if reason is None:
                command.start()

    DBusGMainLoop(set_as_default=True)
    # With bus_name, only signals from the current owner of the name are accepted. Any process can send a signal with
    # any interface and member, but the bus policy allows only the wakevirt-capture user to own this name.
    dbus.SystemBus().add_signal_receiver(received, "MagicPacket", dbus_interface=CAPTURE, bus_name=CAPTURE)
    print(f"waiting for packets for {', '.join(commands) or 'no MAC address'}", flush=True)
    GLib.MainLoop().run()


main()
