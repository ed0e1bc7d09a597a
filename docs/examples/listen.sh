#!/bin/sh
# Prints each magic packet that arrives at this host. Any user can run this script.
#
# gdbus accepts only signals from the owner of the name. Any process can send a signal with this interface and member.
gdbus monitor --system --dest org.wakevirt.Capture1 |
    sed --unbuffered --quiet \
        "s/.*\.MagicPacket (uint64 [0-9]*, '\([0-9a-f:]*\)'.*'interface': <'\([^']*\)'>.*/\1 on \2/p"
