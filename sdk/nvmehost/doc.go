// Package nvmehost is our own NVMe/TCP host: it owns connections to a controller, the host's half
// of the transport's state machine, and the commands in flight on them. Tests, the bench and tools
// use it where the kernel has no NVMe/TCP. It does not own device nodes, multipath or retries: an
// error is handed to the caller as it is, and a lost connection stays lost.
//
// Two ways of use share the same state machine, Queue:
//
//   - Controller, the blocking convenience API. Connect makes an association, enables the
//     controller, keeps it alive and collects its events; any goroutine may call Do, Read, Write,
//     Identify and so on.
//   - Queue on a loop (package hostio), the high-rate API. A caller that drives its own loop with Turn on a locked
//     OS thread submits prepared IOs and gets each back by a callback on that thread: no locks, no
//     channels, no allocation per command, one writev and few readv per turn.
//
// Editions cited: NVM Express Base Specification 2.0 ("Base"), NVM Command Set Specification 1.0
// ("NVM"), NVM Express TCP Transport Specification 1.0 ("TCP").
package nvmehost
