package device

import (
	"encoding/hex"
	"fmt"

	"github.com/mooring-io/mooring/sdk/scsi"
)

// vendor and product are what initiators see.
const (
	vendor  = "MOORING"
	product = "VOLUME"
)

// REQUEST SENSE. SPC-4 6.39

func beginRequestSense(n *Nexus, t *Task) { t.run = executeRequestSense }

func executeRequestSense(t *Task) {
	s := scsi.Sense{}
	if t.unit == nil {
		s.Key = scsi.ASCKey{Key: scsi.IllegalRequest, ASC: scsi.ASCNoSuchUnit}
	} else if asc, ok := t.nexus.attention(t.unit.lun); ok {
		s.Key = scsi.ASCKey{Key: scsi.UnitAttention, ASC: asc}
	}
	t.answer(s.Append(t.scratch(), t.CDB[1]&1 != 0))
}

// INQUIRY. SPC-4 6.6

func beginInquiry(n *Nexus, t *Task) {
	if t.CDB[1]&1 == 0 {
		if t.CDB[2] != 0 {
			t.invalidCDB(2, 7)
			return
		}
		t.run = executeInquiry
		return
	}
	if vpdPages[scsi.VPDPage(t.CDB[2])] == nil || t.unit == nil {
		t.invalidCDB(2, 7)
		return
	}
	t.run = func(t *Task) {
		page := scsi.VPDPage(t.CDB[2])
		t.answer(scsi.AppendVPD(t.scratch(), scsi.UnitConnected, page, vpdPages[page](t)))
	}
}

func executeInquiry(t *Task) {
	q := scsi.InquiryData{
		Qualifier: scsi.UnitConnected, Type: scsi.TypeDisk, ThirdPartyCopy: true, Vendor: vendor, Product: product,
		Revision: t.nexus.server.revision,
		Versions: []uint16{scsi.VersionSAM5, scsi.VersionISCSI, scsi.VersionSPC4, scsi.VersionSBC3},
	}
	if t.unit == nil {
		q.Qualifier, q.Type, q.ThirdPartyCopy, q.Versions = scsi.UnitImpossible, scsi.TypeUnknown, false, nil
	} else if t.unit.alua {
		q.TPGS = scsi.TPGSImplicit
	}
	t.answer(q.Append(t.scratch()))
}

// vpdPages makes the content of each page.
var vpdPages map[scsi.VPDPage]func(*Task) []byte

func init() {
	vpdPages = map[scsi.VPDPage]func(*Task) []byte{
		scsi.VPDSupportedPages: func(*Task) []byte {
			var list []scsi.VPDPage
			for p := range vpdPages {
				list = append(list, p)
			}
			return scsi.SupportedPages(list...)
		},
		scsi.VPDSerialNumber:    func(t *Task) []byte { return []byte(t.unit.serial()) },
		scsi.VPDDeviceID:        deviceID,
		scsi.VPDExtendedInquiry: func(*Task) []byte { return scsi.ExtendedInquiry() },
		scsi.VPDThirdPartyCopy:  func(*Task) []byte { return copyLimits.AppendThirdPartyCopy(nil) },
		scsi.VPDBlockLimits:     blockLimits,
		scsi.VPDCharacteristics: func(*Task) []byte { return scsi.Characteristics() },
		scsi.VPDProvisioning:    func(*Task) []byte { return scsi.Provisioning() },
	}
}

func (u *unit) serial() string {
	id := u.id()
	return hexOf(id[:])
}

func hexOf(b []byte) string { return hex.EncodeToString(b) }

// deviceID names the unit, by what its namespace has as NGUID and UUID if there is one, then the
// port, its group and the device. SPC-4 7.8.6, RFC 7143 4.4.2
func deviceID(t *Task) []byte {
	u, n := t.unit, t.nexus
	var b []byte
	for _, d := range append(u.designators(), []scsi.Designator{
		{Association: scsi.OfPort, Type: scsi.DesignatorPort, ISCSI: true, ID: []byte{0, 0, byte(n.port16() >> 8), byte(n.port16())}},
		{Association: scsi.OfPort, Type: scsi.DesignatorPortGroup, ISCSI: true, ID: []byte{0, 0, byte(n.info.PortGroup >> 8), byte(n.info.PortGroup)}},
		{Association: scsi.OfPort, Type: scsi.DesignatorSCSIName, ISCSI: true, ID: scsi.SCSIName(fmt.Sprintf("%s,t,0x%04x", n.info.Target, n.info.PortGroup))},
		{Association: scsi.OfDevice, Type: scsi.DesignatorSCSIName, ISCSI: true, ID: scsi.SCSIName(n.info.Target)},
	}...) {
		b = d.Append(b)
	}
	return b
}

// designators are the names of a unit, all of them made of its volume's identifier.
func (u *unit) designators() []scsi.Designator {
	id := u.id()
	return []scsi.Designator{
		{Association: scsi.OfUnit, Type: scsi.DesignatorEUI64, ID: u.info.GetNguid()},
		{Association: scsi.OfUnit, Type: scsi.DesignatorVendor, ID: fmt.Appendf(nil, "%-8s%s", vendor, u.serial())},
		{Association: scsi.OfUnit, Type: scsi.DesignatorUUID, ID: append([]byte{0x10, 0}, id[:]...)},
	}
}

// port16 is the relative target port identifier: one for each portal group.
func (n *Nexus) port16() uint16 { return n.info.PortGroup }

func blockLimits(t *Task) []byte {
	shift := t.unit.shift
	l := scsi.BlockLimits{
		MaxCompareAndWrite: uint8(min(compareBytes>>shift, 255)), OptimalGranularity: uint16(allocationGrain >> shift),
		MaxTransfer: movedBytes >> shift, OptimalTransfer: uint32(t.nexus.maxTransfer >> shift),
		MaxUnmap: 0xffff_ffff, MaxUnmapDescriptors: unmapRanges, MaxWriteSame: sameBytes >> shift,
	}
	if allocationGrain>>shift > 1 {
		// Of one block there is nothing to say; and QEMU up to 7.2 at least trips over itself
		// where it is told to look for clusters of blocks of 4096 bytes.
		l.UnmapGranularity = allocationGrain >> shift
	}
	return l.Append(nil)
}

// REPORT LUNS. SPC-4 6.33

func beginReportLUNs(n *Nexus, t *Task) {
	switch {
	case scsi.AllocationLength(&t.CDB) < 16:
		t.invalidCDB(6, 7)
	case t.CDB[2] > 2:
		t.invalidCDB(2, 7)
	default:
		t.run = executeReportLUNs
	}
}

// executeReportLUNs lists the units. There are no well known ones: SELECT REPORT of 1 has an empty
// list. Whoever has read it knows what changed.
func executeReportLUNs(t *Task) {
	n := t.nexus
	luns := n.view.luns
	if t.CDB[2] == 1 {
		luns = nil
	}
	for _, l := range n.view.luns {
		n.clearAttention(l, scsi.ASCReportedLUNsChanged)
	}
	t.answer(scsi.AppendLUNs(t.scratch(), luns))
}

// READ CAPACITY. SBC-3 5.15 and 5.16

func beginReadCapacity(n *Nexus, t *Task) {
	ten := scsi.Opcode(t.CDB[0]) == scsi.ReadCapacity10
	if ten && (t.CDB[8]&1 != 0 || t.CDB[2]|t.CDB[3]|t.CDB[4]|t.CDB[5] != 0) { // PMI and the LBA are obsolete
		t.invalidCDB(8, 0)
		return
	}
	t.run = func(t *Task) {
		u := t.unit
		c := scsi.Capacity{LastLBA: u.blocks - 1, BlockBytes: 1 << u.shift, Thin: true, ReadsZeros: true}
		for 1<<(u.shift+c.PhysicalShift) < allocationGrain {
			c.PhysicalShift++
		}
		if ten {
			t.answerAll(c.Append10(t.scratch()))
			return
		}
		t.answer(c.Append16(t.scratch()))
	}
}

// answerAll is answer for a command without an allocation length.
func (t *Task) answerAll(data []byte) {
	t.param, t.Total = data[:0], uint64(len(data))
	if t.Reads {
		t.Answer = data[:min(len(data), int(t.Expected))]
	}
	t.nexus.complete(t)
}

// READ DEFECT DATA: there are none. SBC-3 5.17 and 5.18

func beginDefects(n *Nexus, t *Task) {
	t.run = func(t *Task) {
		if scsi.Opcode(t.CDB[0]) == scsi.ReadDefectData10 {
			t.answer(append(t.scratch(), 0, t.CDB[2]&0x1f, 0, 0))
			return
		}
		t.answer(append(t.scratch(), 0, t.CDB[1]&0x1f, 0, 0, 0, 0, 0, 0))
	}
}

// START STOP UNIT: a unit is always started, and has no other power conditions. SBC-3 5.25

func beginStartStop(n *Nexus, t *Task) {
	switch {
	case t.CDB[4]&0xf0 != 0:
		t.invalidCDB(4, 7)
	case t.CDB[4]&0x03 != 0x01: // LOEJ, START
		t.invalidCDB(4, 1)
	default:
		t.run = completeGood
	}
}

// SEND DIAGNOSTIC: the default self-test passes if the unit answers. SPC-4 6.42

func beginDiagnostic(n *Nexus, t *Task) {
	switch {
	case t.CDB[1]&0xe0 != 0: // a self-test code
		t.invalidCDB(1, 7)
	case t.CDB[1]&0x04 == 0: // SELFTEST
		t.invalidCDB(1, 2)
	case scsi.ParameterListLength(&t.CDB) != 0:
		t.invalidCDB(3, 7)
	default:
		t.run = completeGood
	}
}
