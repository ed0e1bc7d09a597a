#!/usr/bin/python3
"""Prints each magic packet that arrives at this host. Any user may run it.

Needs the Debian packages python3-dbus and python3-gi.
"""

import dbus
from dbus.mainloop.glib import DBusGMainLoop
from gi.repository import GLib

CAPTURE = "org.wakevirt.Capture1"


def heard(sequence, mac, details):
    # A key that does not apply is absent: a bare frame has no "source", for example.
    print(f"{mac} on {details.get('interface', 'no interface')}", flush=True)


DBusGMainLoop(set_as_default=True)
bus = dbus.SystemBus()
# By bus_name only the owner of the name is believed, whoever that is at the time: the bus lets any
# process send a signal of any name.
bus.add_signal_receiver(heard, "MagicPacket", dbus_interface=CAPTURE, bus_name=CAPTURE)
GLib.MainLoop().run()
