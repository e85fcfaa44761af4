package device

import (
	"github.com/mooring-io/mooring/sdk/scsi"
)

// modes is what MODE SELECT changes. It belongs to the logical unit, whoever changes it. It is lost
// when the plugin is restarted: saved pages are not supported.
type modes struct {
	writeCache      bool // WCE; false where the volume has no volatile cache
	writeProtect    bool // SWP
	descriptorSense bool // D_SENSE
}

// modePage makes the content of a page, as asked for, and takes one that was sent.
type modePage struct {
	code scsi.ModePage
	// content with the modes; changeable has a bit for each bit that can be changed.
	content    func(m modes) []byte
	changeable func(u *unit) []byte
	take       func(m *modes, content []byte)
}

var modePages = []modePage{
	{scsi.ModeRecovery, func(modes) []byte { // AWRE, ARRE
		return []byte{0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	}, zeroMask(10), nil},
	{scsi.ModeDisconnect, func(modes) []byte { return make([]byte, 14) }, zeroMask(14), nil},
	{scsi.ModeCaching, func(m modes) []byte {
		b := make([]byte, 18)
		b[0] = bit(m.writeCache, 0x04) // WCE
		return b
	}, func(u *unit) []byte {
		b := make([]byte, 18)
		b[0] = bit(u.volatile, 0x04)
		return b
	}, func(m *modes, c []byte) { m.writeCache = c[0]&0x04 != 0 }},
	{scsi.ModeControl, func(m modes) []byte {
		// TST 0, unrestricted reordering, no TAS, autoload 0
		return []byte{bit(m.descriptorSense, 0x04), 0x10, bit(m.writeProtect, 0x08), 0, 0, 0, 0xff, 0xff, 0, 0}
	}, func(*unit) []byte { return []byte{0x04, 0, 0x08, 0, 0, 0, 0, 0, 0, 0} },
		func(m *modes, c []byte) { m.descriptorSense, m.writeProtect = c[0]&0x04 != 0, c[2]&0x08 != 0 }},
	{scsi.ModeExceptions, func(modes) []byte { return []byte{0x08, 0, 0, 0, 0, 0, 0, 0, 0, 0} }, zeroMask(10), nil}, // DEXCPT
}

func zeroMask(n int) func(*unit) []byte { return func(*unit) []byte { return make([]byte, n) } }

func bit(on bool, b byte) byte {
	if on {
		return b
	}
	return 0
}

// MODE SENSE. SPC-4 6.13 and 6.14

func beginModeSense(_ *Nexus, t *Task) {
	m := scsi.ParseModeSense(&t.CDB)
	known := m.Page == scsi.ModeAllPages
	for _, p := range modePages {
		known = known || p.code == m.Page
	}
	switch {
	case m.Control == scsi.SavedValues:
		t.refuse(scsi.ASCKey{Key: scsi.IllegalRequest, ASC: scsi.ASCSavingNotSupported})
	case !known:
		t.invalidCDB(2, 5)
	case m.Subpage != 0 && m.Subpage != scsi.ModeAllSubpages:
		t.invalidCDB(3, 7)
	default:
		t.run = executeModeSense
	}
}

func executeModeSense(t *Task) {
	m := scsi.ParseModeSense(&t.CDB)
	u := t.unit
	present := u.shared.present()
	var pages []byte
	for _, p := range modePages {
		if m.Page != scsi.ModeAllPages && m.Page != p.code {
			continue
		}
		content := p.content(present)
		switch m.Control {
		case scsi.ChangeableValues:
			content = p.changeable(u)
		case scsi.DefaultValues:
			content = p.content(modes{writeCache: u.volatile})
		case scsi.CurrentValues, scsi.SavedValues:
		}
		pages = scsi.Mode{Page: p.code, Content: content}.Append(pages)
	}
	h := scsi.ModeHeader{
		WriteProtected: present.writeProtect, DPOFUA: true, HasBlock: !m.NoBlocks, Long: m.LongBlocks, Blocks: u.blocks, BlockBytes: 1 << u.shift,
	}
	t.answer(h.Append(t.scratch(), scsi.Opcode(t.CDB[0]) == scsi.ModeSense10, pages))
}

// MODE SELECT. SPC-4 6.11 and 6.12

// maxModeList is more than all pages have together.
const maxModeList = 512

func beginModeSelect(n *Nexus, t *Task) {
	switch {
	case t.CDB[1]&0x10 == 0: // PF
		t.invalidCDB(1, 4)
	case t.CDB[1]&0x01 != 0: // SP
		t.invalidCDB(1, 0)
	default:
		least := 4
		if scsi.Opcode(t.CDB[0]) == scsi.ModeSelect10 {
			least = 8
		}
		n.list(t, least, maxModeList, executeModeSelect)
	}
}

func executeModeSelect(t *Task) {
	list := t.Data.Bytes()
	h, at, err := scsi.ParseModeHeader(list, scsi.Opcode(t.CDB[0]) == scsi.ModeSelect10)
	if err != nil {
		t.fail(scsi.ASCKey{Key: scsi.IllegalRequest, ASC: scsi.ASCParameterListLength})
		return
	}
	if h.HasBlock && (h.BlockBytes != 1<<t.unit.shift || h.Blocks != 0 && h.Blocks < 0xffff_ffff && h.Blocks != t.unit.blocks) {
		t.invalidList(4, 7) // neither can be changed
		return
	}
	next := t.unit.shared.present()
	for at < len(list) {
		m, n, err := scsi.ParseMode(list[at:])
		if err != nil {
			t.fail(scsi.ASCKey{Key: scsi.IllegalRequest, ASC: scsi.ASCParameterListLength})
			return
		}
		if wrong := t.takeMode(&next, m); wrong >= 0 {
			t.invalidList(at+wrong, -1)
			return
		}
		at += n
	}
	t.unit.shared.change(t, next)
}

// takeMode changes the modes by one page, or says at which byte of the page it is wrong.
func (t *Task) takeMode(next *modes, m scsi.Mode) (wrong int) {
	for _, p := range modePages {
		if p.code != m.Page || m.Subpage != 0 {
			continue
		}
		now, mask := p.content(*next), p.changeable(t.unit)
		if len(m.Content) != len(now) {
			return 1
		}
		for i := range now {
			if (now[i]^m.Content[i])&^mask[i] != 0 {
				return 2 + i
			}
		}
		if p.take != nil {
			p.take(next, m.Content)
		}
		return -1
	}
	return 0
}

func (u *sharedUnit) present() modes {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.modes
}

// change puts new modes in force for every nexus, tells all but the task's of it, and ends the task
// when all have them.
func (u *sharedUnit) change(t *Task, next modes) {
	u.mu.Lock()
	same := u.modes == next
	u.modes = next
	u.mu.Unlock()
	if same {
		t.nexus.complete(t)
		return
	}
	by := t.nexus
	left := 0 // counted on by's thread alone, which we are on
	left = u.each(func(n *Nexus, l scsi.LUN) {
		n.refresh()
		if n != by {
			n.attend(l, scsi.ASCModeParametersChanged)
		}
		by.thread.Post(func() {
			if left--; left == 0 {
				by.complete(t)
			}
		})
	})
	if left == 0 { // the unit has just gone
		by.complete(t)
	}
}
