// Package powerloss cuts the power of a whole node: the built agent, its Badger databases and its extent store, on a disk that
// forgets what was not synced (package forgetfs). Hosts write meanwhile, and volumes are made, grown, attached and deleted. After
// each cut the agent starts again on what survived, with another boot ID, as on a machine that was switched off and on; now and then
// it is only killed, and nothing may be lost.
//
// It judges: what was acknowledged on a sync volume, flushed on a volatile one or answered by the admin API is there; a block that
// was being written is old or new; nothing reads with an error; once a host's unflushed writes are lost, its next Flush fails.
//
// The disk keeps names and sizes as ext4 does (see forgetfs). Where a synced file may lose its name, as POSIX would have it, Badger
// does not open any more: it syncs new tables, and the folder only later.
//
// The tests have the build tag e2e and need root: they mount, and give the agent a boot ID in a mount namespace of its own.
//
//	SEED             of the choices; default 1. What processes do between them is theirs, so a seed replays a run only nearly.
//	POWERLOSS_CUTS   power cuts; default 30
package powerloss
