// Command chaos kills and stops the nodes of a cluster at random while hosts use a volume with replicas, and then judges
// whether the volume behaved as one disk would have.
//
// It runs three agents as processes, each in a network namespace and on disks that forget what was not synced, and hosts of the project's own, which write values that are
// never used twice to single blocks and read them, by whatever way they have. Each command is remembered with when it was sent and
// answered; one whose outcome is unknown may have happened at any later time. In the end every block is read once more, and the history of each
// must be that of a register (porcupine): so nothing that was acknowledged is lost, and nothing old is ever read.
//
// It owns the faults, the hosts and the verdict. It does not own how agents behave, nor what a host's paths are (package multipath).
package main
