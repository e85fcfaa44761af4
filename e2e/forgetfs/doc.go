// Package forgetfs is a file system for tests that loses at a power cut what a real disk may lose: a Disk in memory, shown
// through FUSE, remembers for every file what was synced and every write since. It owns the disk, the mount and the choice of
// what survives. It does not know what is stored there, nor who kills the processes that use it.
//
// Mount shows a Disk at a folder; Cut (or CutAt, at the n-th change from now) is the moment of the power cut: no change that
// arrives afterwards is kept or answered, until Unmount answers all that waits with EIO. The user kills the processes between
// the two, as a power cut would. Survivor is the disk that the machine finds when power is back.
//
// What survives:
//
//   - Data: all that was written before a sync of the file. Of every later write, each 512-byte sector may be there or not, by
//     seed; of two unsynced writes to one sector, either may be there. A write with O_DSYNC or RWF_DSYNC on a file open with
//     O_DIRECT is durable itself, with the file size that it needs, and says nothing of other writes. What a process changed in
//     memory that it maps arrives with msync or fsync, or when the kernel writes it back, which WriteBack asks for.
//   - Names and sizes (create, unlink, rename, truncate, allocate, punch): one journal, as ext4 has it. A prefix of it
//     survives; a sync of a file or folder makes it reach at least to the last change of that file or folder. With
//     Options.Strict the promise is that of POSIX alone: names are durable after a sync of their folder, sizes after one of
//     their file, and each folder and file has a journal of its own.
//
// Modes and times are kept at once. Hard and symbolic links, extended attributes and a rename to another folder are refused.
package forgetfs
