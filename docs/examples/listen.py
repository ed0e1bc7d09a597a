#!/usr/bin/python3
"""Prints each magic packet that arrives at this host. Any user can run this script.

It needs the Debian packages python3-dbus and python3-gi.
"""

import dbus
from dbus.mainloop.glib import DBusGMainLoop
from gi.repository import GLib

CAPTURE = "org.wakevirt.Capture1"


def received(sequence, mac, details):
    # A key that does not apply is absent. For example, an Ethernet frame has no "source".
    print(f"{mac} on {details.get('interface', 'no interface')}", flush=True)


DBusGMainLoop(set_as_default=True)
bus = dbus.SystemBus()
# With bus_name, only signals from the current owner of the name are accepted. Any process can send a
# signal with this interface and member.
bus.add_signal_receiver(received, "MagicPacket", dbus_interface=CAPTURE, bus_name=CAPTURE)
GLib.MainLoop().run()
