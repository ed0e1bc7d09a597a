#!/bin/sh
# Runs for @DOMAINS@. Written by "wakevirtctl host new": edit it, and replace the two commands.
# $1 is the name of the domain. /usr/share/doc/wakevirt/HOOKS.md describes when this file runs.
@CONDITION@
case $2 in
# @BEFORE@
@START@) logger -t @NAME@ -- "before $1" ;;
# @AFTER@
@STOP@) logger -t @NAME@ -- "after $1" ;;
esac
