package scsi

// AccessState is an asymmetric access state. SPC-4 table 327
type AccessState uint8

// The states.
const (
	ActiveOptimized    AccessState = 0x0
	ActiveNonOptimized AccessState = 0x1
	Standby            AccessState = 0x2
	UnavailableState   AccessState = 0x3
	Transitioning      AccessState = 0xf
)

// PortGroup is one target port group of a logical unit. SPC-4 6.37
type PortGroup struct {
	Group     uint16
	State     AccessState
	Preferred bool
	Ports     []uint16 // relative target ports
}

// AppendPortGroups appends the data of REPORT TARGET PORT GROUPS, in the extended format if it is
// asked for.
func AppendPortGroups(b []byte, extended bool, transition uint8, groups []PortGroup) []byte {
	start := len(b)
	b = be.AppendUint32(b, 0)
	if extended {
		b = append(b, 0x10, transition, 0, 0)
	}
	for _, g := range groups {
		b = append(b, flag(g.Preferred, 0x80)|byte(g.State&0xf), 0x8f) // all but offline and LBA dependent
		b = be.AppendUint16(b, g.Group)
		b = append(b, 0, 0x02, 0, byte(len(g.Ports))) // changed by the target itself
		for _, p := range g.Ports {
			b = append(b, 0, 0)
			b = be.AppendUint16(b, p)
		}
	}
	be.PutUint32(b[start:], uint32(len(b)-start-4))
	return b
}

// ParsePortGroups decodes the data, not in the extended format.
func ParsePortGroups(b []byte) ([]PortGroup, error) {
	if err := need("target port groups", b, 4); err != nil {
		return nil, err
	}
	b = b[4:min(uint64(len(b)), 4+uint64(be.Uint32(b)))]
	var out []PortGroup
	for len(b) >= 8 {
		g := PortGroup{Group: be.Uint16(b[2:]), State: AccessState(b[0] & 0xf), Preferred: b[0]&0x80 != 0}
		n := 8 + 4*int(b[7])
		if err := need("target port group", b, n); err != nil {
			return nil, err
		}
		for p := b[8:n]; len(p) > 0; p = p[4:] {
			g.Ports = append(g.Ports, be.Uint16(p[2:]))
		}
		out, b = append(out, g), b[n:]
	}
	return out, nil
}

// Command describes a supported command for REPORT SUPPORTED OPERATION CODES. SPC-4 6.35
type Command struct {
	Opcode        Opcode
	HasAction     bool
	ServiceAction uint16
	// Usage is the CDB with a one for each bit that is looked at, and opcode and service action as
	// they are. Its length is that of the CDB.
	Usage []byte
}

// AppendAllCommands appends the data for all commands, with timeouts descriptors if asked for.
func AppendAllCommands(b []byte, timeouts bool, all []Command) []byte {
	size := 8
	if timeouts {
		size += timeoutsSize
	}
	b = be.AppendUint32(b, uint32(size*len(all)))
	for _, c := range all {
		b = append(b, byte(c.Opcode), 0)
		b = be.AppendUint16(b, c.ServiceAction)
		b = append(b, 0, flag(timeouts, 0x02)|flag(c.HasAction, 0x01))
		b = be.AppendUint16(b, uint16(len(c.Usage)))
		if timeouts {
			b = appendTimeouts(b)
		}
	}
	return b
}

// timeoutsSize is the length of a command timeouts descriptor.
const timeoutsSize = 12

// appendTimeouts appends a descriptor that tells none.
func appendTimeouts(b []byte) []byte {
	return append(b, 0, timeoutsSize-2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
}

// AppendOneCommand appends the data for one command; nil is one that is not supported.
func AppendOneCommand(b []byte, timeouts bool, c *Command) []byte {
	if c == nil {
		return append(b, 0, 1, 0, 0)
	}
	b = append(b, 0, flag(timeouts, 0x80)|3)
	b = be.AppendUint16(b, uint16(len(c.Usage)))
	b = append(b, c.Usage...)
	if timeouts {
		b = appendTimeouts(b)
	}
	return b
}

// ReportCommands is what REPORT SUPPORTED OPERATION CODES asks for. SPC-4 6.35.1
type ReportCommands struct {
	Timeouts      bool // RCTD
	Options       uint8
	Opcode        Opcode
	ServiceAction uint16
}

// ParseReportCommands decodes the CDB.
func ParseReportCommands(cdb *[16]byte) ReportCommands {
	return ReportCommands{cdb[2]&0x80 != 0, cdb[2] & 7, Opcode(cdb[3]), be.Uint16(cdb[4:])}
}

// TaskMgmt are the task management functions of REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS: byte 0
// of its data. SPC-4 6.36
type TaskMgmt uint8

// The functions.
const (
	CanAbortTask    TaskMgmt = 0x80
	CanAbortTaskSet TaskMgmt = 0x40
	CanClearACA     TaskMgmt = 0x20
	CanClearTaskSet TaskMgmt = 0x10
	CanResetUnit    TaskMgmt = 0x08
	CanQueryTask    TaskMgmt = 0x04
)

// AppendTaskMgmt appends the data, in the extended format if it is asked for.
func AppendTaskMgmt(b []byte, extended bool, f TaskMgmt) []byte {
	if extended {
		return append(b, byte(f), 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	}
	return append(b, byte(f), 0, 0, 0)
}
