// Package rig boots a throw-away Linux machine and runs one shell script in it.
//
// The machine is QEMU's software emulation (no KVM, no root) of the newest installed Debian kernel. Everything it
// holds is one uncompressed cpio archive in memory: busybox, named programs of this machine with their shared
// libraries, kernel modules, and whatever files the caller adds. An Image is the part that cases have in common and
// is cached between runs; a Machine is one boot of it.
//
// A Machine has two serial ports. The console carries kernel messages and the script's output; the status port
// carries lines that the script writes to /dev/ttyS1 for the caller, and its exit status. The folder /results of the
// guest is a folder of the caller. A Disk survives its Machine, and can forget what was never flushed.
//
// The package owns processes, serial ports and temporary files of the machine. It does not own what runs inside.
package rig
