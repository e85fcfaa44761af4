package nvme

import "fmt"

// ANAState is the access state of an ANA group at a controller. Base 8.1
type ANAState uint8

// ANA states.
const (
	ANAOptimized      ANAState = 0x1
	ANANonOptimized   ANAState = 0x2
	ANAInaccessible   ANAState = 0x3
	ANAPersistentLoss ANAState = 0x4
	ANAChange         ANAState = 0xf
)

// String names the state.
func (s ANAState) String() string {
	switch s {
	case ANAOptimized:
		return "optimized"
	case ANANonOptimized:
		return "non-optimized"
	case ANAInaccessible:
		return "inaccessible"
	case ANAPersistentLoss:
		return "persistent-loss"
	case ANAChange:
		return "change"
	}
	return fmt.Sprintf("ANA state %xh", uint8(s))
}

// Status returns with what a command to a namespace in this state fails, or success where the
// state allows I/O. Base 8.1
func (s ANAState) Status() Status {
	switch s {
	case ANAInaccessible:
		return StatusANAInaccessible
	case ANAPersistentLoss:
		return StatusANAPersistentLoss
	case ANAChange:
		return StatusANATransition
	case ANAOptimized, ANANonOptimized:
	}
	return StatusSuccess
}

// Lengths of the parts of the ANA page in bytes.
const (
	ANALogHeaderSize = 16
	ANAGroupSize     = 32 // without its NSIDs, 4 bytes each
)

// ANAGroup is an ANA group descriptor. Base 5.16.1.13
type ANAGroup struct {
	ID          ANAGroupID
	ChangeCount uint64
	State       ANAState
	NSIDs       []NSID // increasing order; none if the page was asked for groups only
}

// Len returns the length of the descriptor in bytes.
func (g ANAGroup) Len() int { return ANAGroupSize + 4*len(g.NSIDs) }

// ANALog is the Asymmetric Namespace Access page. Base 5.16.1.13
type ANALog struct {
	ChangeCount uint64
	Groups      []ANAGroup // increasing ID, at most 65,535
}

// ParseANALog decodes the page at the start of b and returns its length. Nothing aliases b.
func ParseANALog(b []byte) (ANALog, int, error) {
	if err := need("ANA log", b, ANALogHeaderSize); err != nil {
		return ANALog{}, 0, err
	}
	log := ANALog{ChangeCount: le.Uint64(b)}
	n := int(le.Uint16(b[8:]))
	at := ANALogHeaderSize
	if err := need("ANA log", b, at+n*ANAGroupSize); err != nil {
		return ANALog{}, 0, err
	}
	if n > 0 {
		log.Groups = make([]ANAGroup, n)
	}
	for i := range log.Groups {
		used, err := log.Groups[i].parse(b[at:])
		if err != nil {
			return ANALog{}, 0, err
		}
		at += used
	}
	return log, at, nil
}

func (g *ANAGroup) parse(b []byte) (int, error) {
	if err := need("ANA group", b, ANAGroupSize); err != nil {
		return 0, err
	}
	g.ID, g.ChangeCount, g.State = ANAGroupID(le.Uint32(b)), le.Uint64(b[8:]), ANAState(b[16]&0xf)
	n := le.Uint32(b[4:])
	if uint64(len(b)-ANAGroupSize)/4 < uint64(n) {
		return 0, need("ANA group", b, len(b)+1)
	}
	if n > 0 {
		g.NSIDs = make([]NSID, n)
	}
	for i := range g.NSIDs {
		g.NSIDs[i] = NSID(le.Uint32(b[ANAGroupSize+4*i:]))
	}
	return g.Len(), nil
}

// Append appends the wire form; groups above 65,535 are cut.
func (a ANALog) Append(b []byte) []byte { return a.append(b, false) }

// AppendGroupsOnly appends the wire form without NSIDs, as for ANAGroupsOnly.
func (a ANALog) AppendGroupsOnly(b []byte) []byte { return a.append(b, true) }

func (a ANALog) append(b []byte, groupsOnly bool) []byte {
	groups := a.Groups[:min(len(a.Groups), 0xffff)]
	b = le.AppendUint64(b, a.ChangeCount)
	b = le.AppendUint16(b, uint16(len(groups)))
	b, _ = grow(b, 6)
	for _, g := range groups {
		if groupsOnly {
			g.NSIDs = nil
		}
		b = le.AppendUint32(b, uint32(g.ID))
		b = le.AppendUint32(b, uint32(len(g.NSIDs)))
		b = le.AppendUint64(b, g.ChangeCount)
		b = append(b, byte(g.State)&0xf)
		b, _ = grow(b, 15)
		for _, id := range g.NSIDs {
			b = le.AppendUint32(b, uint32(id))
		}
	}
	return b
}

// Len returns the length of the page in bytes.
func (a ANALog) Len() int {
	n := ANALogHeaderSize
	for _, g := range a.Groups[:min(len(a.Groups), 0xffff)] {
		n += g.Len()
	}
	return n
}
