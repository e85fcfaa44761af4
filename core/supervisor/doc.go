// Package supervisor finds, verifies, launches and watches plugins.
//
// It owns the catalog (which file is which plugin, with its SHA-256), the plugins'
// processes, their private channels, logs, health and restarts, and the decoding of
// a plugin's configuration against the schema that it declares. It does not know
// what a plugin does: blocks, associations and rings belong to the DataHost that
// implements the Core service.
//
// docs/adr/0001-plugin-processes.md says why it is done this way.
package supervisor
