package sdk

import (
	"github.com/hashicorp/go-plugin"
)

// ProtocolVersion is the version of the control protocol that this package speaks.
// It changes when an old core and a new plugin can no longer understand each other;
// the ring ABI has a version of its own.
const ProtocolVersion = 1

// Handshake is what core and plugin must agree on before they speak. The cookie is
// no secret: it turns a plugin that was started by hand into a friendly message.
var Handshake = plugin.HandshakeConfig{
	ProtocolVersion:  ProtocolVersion,
	MagicCookieKey:   "MOORING_PLUGIN",
	MagicCookieValue: "c2e7a3f4-7d0b-4d7e-9d55-3b1f6a0c9e21",
}

// PluginName is the name under which go-plugin dispenses every Mooring plugin: one
// process is one plugin.
const PluginName = "mooring"

// Environment variables that the core sets for a plugin.
const (
	// EnvDescriptorFD is the number of the inherited SOCK_SEQPACKET socket over which
	// ring descriptors come and whose end of file tells that the core is dead.
	EnvDescriptorFD = "MOORING_DESCRIPTOR_FD"
	// EnvLogLevel is the lowest level that the core wants to see.
	EnvLogLevel = "MOORING_LOG_LEVEL"
)
