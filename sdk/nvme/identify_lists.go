package nvme

// Capacities of the lists that fill an Identify data structure or a log page.
const (
	MaxNSList         = 1024
	MaxControllerList = 2047
	MaxIOCommandSets  = 512
)

// NSList is a namespace list: NSIDs in increasing order, at most MaxNSList. It is the data of
// CNS 02h, 07h, 10h and 1Ah. Base 5.17.2.2
type NSList []NSID

// ParseNSList decodes the first 4,096 bytes of b; the list ends at the first zero.
func ParseNSList(b []byte) (NSList, int, error) {
	if err := need("namespace list", b, IdentifySize); err != nil {
		return nil, 0, err
	}
	list := make(NSList, 0, 16)
	for i := 0; i < IdentifySize; i += 4 {
		id := NSID(le.Uint32(b[i:]))
		if id == 0 {
			break
		}
		list = append(list, id)
	}
	return list, IdentifySize, nil
}

// Append appends the wire form; entries above MaxNSList are cut.
func (s NSList) Append(b []byte) []byte {
	b, p := grow(b, IdentifySize)
	for i, id := range s[:min(len(s), MaxNSList)] {
		le.PutUint32(p[4*i:], uint32(id))
	}
	return b
}

// Len is IdentifySize.
func (s NSList) Len() int { return IdentifySize }

// ChangedNSList is the Changed Namespace List log page. Base 5.16.1.5
type ChangedNSList struct {
	NSIDs []NSID // increasing order
	Many  bool   // more than MaxNSList changed; NSIDs is empty
}

// ParseChangedNSList decodes the first 4,096 bytes of b.
func ParseChangedNSList(b []byte) (ChangedNSList, int, error) {
	s, n, err := ParseNSList(b)
	if len(s) > 0 && s[0] == BroadcastNSID {
		return ChangedNSList{Many: true}, n, err
	}
	return ChangedNSList{NSIDs: s}, n, err
}

// Append appends the wire form; a list longer than MaxNSList becomes Many.
func (c ChangedNSList) Append(b []byte) []byte {
	if c.Many || len(c.NSIDs) > MaxNSList {
		return NSList{BroadcastNSID}.Append(b)
	}
	return NSList(c.NSIDs).Append(b)
}

// Len is IdentifySize.
func (c ChangedNSList) Len() int { return IdentifySize }

// ControllerList is a list of controllers in increasing order, at most MaxControllerList. It is
// the data of CNS 12h and 13h. Base 4.4.1
type ControllerList []ControllerID

// ParseControllerList decodes the first 4,096 bytes of b.
func ParseControllerList(b []byte) (ControllerList, int, error) {
	if err := need("controller list", b, IdentifySize); err != nil {
		return nil, 0, err
	}
	n := int(le.Uint16(b))
	if n > MaxControllerList {
		return nil, 0, malformed("controller list", "more than 2,047 entries")
	}
	list := make(ControllerList, n)
	for i := range list {
		list[i] = ControllerID(le.Uint16(b[2+2*i:]))
	}
	return list, IdentifySize, nil
}

// Append appends the wire form; entries above MaxControllerList are cut.
func (s ControllerList) Append(b []byte) []byte {
	b, p := grow(b, IdentifySize)
	s = s[:min(len(s), MaxControllerList)]
	le.PutUint16(p, uint16(len(s)))
	for i, id := range s {
		le.PutUint16(p[2+2*i:], uint16(id))
	}
	return b
}

// Len is IdentifySize.
func (s ControllerList) Len() int { return IdentifySize }

// IOCommandSets is the I/O Command Set data structure, CNS 1Ch: each entry is a combination of
// command sets that can be enabled together, bit n for CSI n. Base 5.17.2.21
type IOCommandSets []uint64

// ParseIOCommandSets decodes the first 4,096 bytes of b; the list ends at the first zero.
func ParseIOCommandSets(b []byte) (IOCommandSets, int, error) {
	if err := need("I/O command sets", b, IdentifySize); err != nil {
		return nil, 0, err
	}
	list := make(IOCommandSets, 0, 1)
	for i := 0; i < IdentifySize; i += 8 {
		v := le.Uint64(b[i:])
		if v == 0 {
			break
		}
		list = append(list, v)
	}
	return list, IdentifySize, nil
}

// Append appends the wire form; entries above MaxIOCommandSets are cut.
func (s IOCommandSets) Append(b []byte) []byte {
	b, p := grow(b, IdentifySize)
	for i, v := range s[:min(len(s), MaxIOCommandSets)] {
		le.PutUint64(p[8*i:], v)
	}
	return b
}

// Len is IdentifySize.
func (s IOCommandSets) Len() int { return IdentifySize }

// Types of namespace identification descriptors (NIDT). Base 5.17.2.3, Figure 277
const (
	nidEUI64      = 1
	nidNGUID      = 2
	nidUUID       = 3
	nidCommandSet = 4
	nidHeader     = 4 // bytes before the identifier
)

// NamespaceIDs is the Namespace Identification Descriptor list, CNS 03h. An all-zero identifier
// is absent. Base 5.17.2.3
type NamespaceIDs struct {
	EUI64         [8]byte
	NGUID         [16]byte
	UUID          [16]byte
	CommandSet    CommandSet
	HasCommandSet bool // the descriptor is there; required of a 2.0 controller
}

// ParseNamespaceIDs decodes the first 4,096 bytes of b, skipping descriptors of unknown type.
func ParseNamespaceIDs(b []byte) (NamespaceIDs, int, error) {
	var ids NamespaceIDs
	if err := need("namespace descriptors", b, IdentifySize); err != nil {
		return ids, 0, err
	}
	for p := b[:IdentifySize]; len(p) >= nidHeader && p[1] != 0; {
		n := int(p[1])
		if len(p) < nidHeader+n {
			return NamespaceIDs{}, 0, malformed("namespace descriptors", "descriptor runs past the end")
		}
		if !ids.set(p[0], p[nidHeader:nidHeader+n]) {
			return NamespaceIDs{}, 0, malformed("namespace descriptors", "identifier of wrong length")
		}
		p = p[nidHeader+n:]
	}
	return ids, IdentifySize, nil
}

func (ids *NamespaceIDs) set(nidt byte, id []byte) bool {
	var to []byte
	switch nidt {
	case nidEUI64:
		to = ids.EUI64[:]
	case nidNGUID:
		to = ids.NGUID[:]
	case nidUUID:
		to = ids.UUID[:]
	case nidCommandSet:
		ids.CommandSet, ids.HasCommandSet = CommandSet(id[0]), true
		return len(id) == 1
	default:
		return true
	}
	return copy(to, id) == len(to) && len(id) == len(to)
}

// Append appends the wire form.
func (ids NamespaceIDs) Append(b []byte) []byte {
	b, p := grow(b, IdentifySize)
	put := func(nidt byte, id []byte) {
		p[0], p[1] = nidt, byte(len(id))
		p = p[nidHeader+copy(p[nidHeader:], id):]
	}
	if ids.EUI64 != [8]byte{} {
		put(nidEUI64, ids.EUI64[:])
	}
	if ids.NGUID != [16]byte{} {
		put(nidNGUID, ids.NGUID[:])
	}
	if ids.UUID != [16]byte{} {
		put(nidUUID, ids.UUID[:])
	}
	if ids.HasCommandSet {
		put(nidCommandSet, []byte{byte(ids.CommandSet)})
	}
	return b
}

// Len is IdentifySize.
func (ids NamespaceIDs) Len() int { return IdentifySize }
