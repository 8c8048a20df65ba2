#!/bin/sh
# Checks that the machine runs the right kernel. Runs in it, last. $1 = row, $2 = release if the host knows it.
set -eu
running=$(uname -r)
wanted=${2:-$(cat /etc/pybpf-kernel 2>/dev/null || true)}
if [ "$running" != "$wanted" ]; then
    echo "check-kernel: row $1 is ${wanted:-not installed}, but this machine runs $running" >&2
    exit 1
fi
echo "check-kernel: row $1, $running"
