// Package sdk is what a plugin's main function needs: implement DataPlugin or
// PolicyPlugin, call Serve.
//
// It owns the handshake with the core, the plugin's side of the control protocol
// and the plugin's life: it opens the rings, runs the I/O threads, reports health,
// and ends the process when the core is dead. It does not own what a plugin does
// with a volume, which package block shows, nor any protocol that hosts speak.
//
// docs/plugin-tutorial.md builds a plugin from nothing; package plugintest checks
// one without root and without a core.
//
// # A plugin's life
//
// The core verifies and starts the file, then calls Describe, Configure, Start and
// SetListeners in this order; later Configure and SetListeners again, whenever
// something changes; Stop at last. When the core dies, Stop is called with a short
// deadline and the process exits: a plugin never outlives its core. When the
// plugin dies, the core starts it anew, with new rings and new handles; nothing is
// carried over. A panic is such a death, so there is no need to recover from one.
package sdk
