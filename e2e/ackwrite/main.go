// Command ackwrite writes numbered blocks to a disk and tells which of them were acknowledged; after a power failure it
// tells whether they are there.
//
//	ackwrite write -dev DEV -blocks N -writers W -from SEQUENCE -seed SEED
//	ackwrite verify -dev DEV -blocks N -acks FILE
//
// "write" overwrites random runs of the first N blocks with O_DIRECT and O_DSYNC until it is killed, and prints one line
// "BLOCK COUNT SEQUENCE" after each write that was acknowledged. "verify" reads those lines from FILE and all N blocks
// from the device, prints what it found in the same form, and fails when an acknowledged block is older than it was,
// or any block is a mixture or unreadable.
//
// It owns the block pattern. It does not know what is behind the disk, nor who cuts the power.
package main

import (
	"flag"
	"fmt"
	"os"
)

const (
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	if len(os.Args) < 2 {
		usage()
	}
	flags := flag.NewFlagSet("ackwrite "+os.Args[1], flag.ExitOnError)
	dev := flags.String("dev", "", "block device or file")
	blocks := flags.Int64("blocks", 0, "number of 4 KiB blocks in use, from the start of the device")
	writers := flags.Int64("writers", 8, "write: writes under way at a time")
	from := flags.Uint64("from", 1, "write: the first sequence number")
	seed := flags.Uint64("seed", 1, "write: of the random choice of blocks")
	acks := flags.String("acks", "", "verify: file with the acknowledged writes")
	if err := flags.Parse(os.Args[2:]); err != nil {
		usage()
	}
	var err error
	switch os.Args[1] {
	case "write":
		err = write(writeOptions{dev: *dev, blocks: *blocks, writers: *writers, from: *from, seed: *seed}, os.Stdout)
	case "verify":
		err = verifyDevice(*dev, *blocks, *acks, os.Stdout)
	default:
		usage()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "ackwrite:", err)
		os.Exit(exitFailed)
	}
}

func usage() {
	fmt.Fprintln(os.Stderr, "usage: ackwrite write|verify -dev DEV -blocks N ...")
	os.Exit(exitUsage)
}
