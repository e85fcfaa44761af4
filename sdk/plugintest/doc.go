// Package plugintest checks data plugins without a core, without root and without a
// kernel initiator: a Harness stands in for the core of one plugin, in the same
// process, with the real control protocol and real rings in front of volumes in
// memory; Run is the conformance suite that the built-in plugins pass too.
//
// It owns the stand-in and the suite. It knows no protocol that hosts speak: the
// plugin's author supplies the host, by Config.Connect.
//
//	func TestConformance(t *testing.T) {
//		plugintest.Run(t, plugintest.Config{
//			New:     func() sdk.DataPlugin { return &myPlugin{} },
//			Listen:  "my-tcp://127.0.0.1:0",
//			Connect: connect,
//		})
//	}
package plugintest
