//go:build race

package extent

// raceEnabled: the race detector makes simulations ten times slower, so they are shorter.
const raceEnabled = true
