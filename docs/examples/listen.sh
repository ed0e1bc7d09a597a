#!/bin/sh
# Prints each magic packet that arrives at this host. Any user may run it.
#
# gdbus believes only the owner of the name; the bus lets any process send a signal of any name.
gdbus monitor --system --dest org.wakevirt.Capture1 |
    sed --unbuffered --quiet \
        "s/.*\.MagicPacket (uint64 [0-9]*, '\([0-9a-f:]*\)'.*'interface': <'\([^']*\)'>.*/\1 on \2/p"
