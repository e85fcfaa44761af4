// Package iscsihost is our own iSCSI initiator: it owns sessions with a target, their login with its
// redirects and proofs, and the tasks in flight on them. Tests, the bench and tools use it where no
// initiator of the kernel is. It does not own device nodes or what commands mean, and retries nothing: an
// error is handed to the caller as it is, and a lost connection stays lost. Only when the target asks for
// it, by an asynchronous logout request, a session logs out when its tasks have ended, and in again where it began;
// tasks that come meanwhile wait.
//
// A Session lives on a loop (package hostio) and belongs to the goroutine that turns it: prepared IOs are
// submitted, and each comes back by a callback on that goroutine: no locks, no allocation per command.
//
// Offered: one connection per session, error recovery level 0, header and data digests, immediate and
// unsolicited data, several R2Ts, CHAP both ways.
//
// Edition cited: RFC 7143.
package iscsihost
