// Package multipath is a namespace as a host with several ways to it sees it: one device
// that stays while controllers come and go. It owns the connections, their ANA states (Base 2.0,
// 8.1) and the choice between them: as Linux does, an optimized way if there is one, else a
// non-optimized one, else I/O waits for Options.HoldFor. It owns which errors are the way's and not the
// command's. It does not own the protocol (package nvmehost), and it does not discover: its
// caller names the addresses.
//
// A write whose way is lost before it is answered is sent again by another one. The target makes
// sure that the first one is not carried out afterwards.
package multipath
