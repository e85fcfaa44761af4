package peer

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/extent"
	"github.com/mooring-io/mooring/core/meta"
	"github.com/mooring-io/mooring/sdk/ring"
)

var (
	idA = uuid.MustParse("01020304-0506-0708-090a-0b0c0d0e0f10")
	idB = uuid.MustParse("f1f2f3f4-f5f6-f7f8-f9fa-fbfcfdfeff00")
)

// headers are one of each frame, with what it may carry.
func headers() []header {
	return []header{
		{kind: kindHello, block: version},
		{kind: kindStores, length: 2 * storeEntry},
		{kind: kindReply, tag: 7, status: statusCorrupt, block: 3},
		{kind: kindReply, tag: 7, length: maxReadBlocks * dataBytes},
		{kind: kindRead, tag: 1, store: 2, id: extent.ID{Volume: idA, Index: 9}, block: 5, blocks: maxReadBlocks, gen: 1 << 40},
		{kind: kindWrite, flags: flagDurable, tag: 1<<32 - 1, length: 2 * dataBytes, blocks: 2, gen: 1},
		{kind: kindZero, blocks: 1 << 31},
		{kind: kindClean, blocks: 16},
		{kind: kindFlush, flags: flagDurable},
		{kind: kindCreate, length: 8, gen: 3},
		{kind: kindSeal, length: 8, gen: 3},
		{kind: kindDelete},
		{kind: kindMapped},
		{kind: kindDeleteFrom, id: extent.ID{Volume: idA, Index: 1}},
		{kind: kindGrant, tag: 3, length: wishBytes + 1, id: extent.ID{Volume: idA}},
		{kind: kindRevoke, store: 4, id: extent.ID{Index: 2}},
		{kind: kindRefresh, id: extent.ID{Volume: idB}},
		{kind: kindCommand, flags: ringFlags | flagTold, block: uint32(ring.OpWrite), length: maxCommand},
		{kind: kindAnswer, status: status(ring.StatusWriteLost), gen: 1 << 60, length: maxCommand},
		{kind: kindAnswer, status: status(StatusNotDriven)},
	}
}

func TestHeaders(t *testing.T) {
	for _, h := range headers() {
		b := h.append(nil)
		if len(b) != headerBytes {
			t.Fatalf("%d bytes", len(b))
		}
		var got header
		if err := got.parse(b); err != nil || got != h {
			t.Errorf("%+v became %+v, %v", h, got, err)
		}
	}
	// The layout, byte by byte.
	h := header{kind: kindWrite, flags: 1, length: 0x2000, tag: 0x01020304, store: 5, id: extent.ID{Volume: idA, Index: 6}, block: 7, blocks: 2, gen: 0x0102030405060708}
	want := []byte{
		5, 1, 0, 0, 0, 0x20, 0, 0, 4, 3, 2, 1, 5, 0, 0, 0,
		1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16,
		6, 0, 0, 0, 7, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0,
		8, 7, 6, 5, 4, 3, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0,
	}
	if got := h.append(nil); !bytes.Equal(got, want) {
		t.Errorf("encoded % x, want % x", got, want)
	}
}

func TestWrongHeaders(t *testing.T) {
	for name, change := range map[string]func(b []byte){
		"no type":            func(b []byte) { b[0] = 0 },
		"unknown type":       func(b []byte) { b[0] = byte(kindEnd) },
		"unknown flag":       func(b []byte) { b[1] = 2 },
		"status of request":  func(b []byte) { b[2] = 1 },
		"unknown status":     func(b []byte) { b[0], b[2] = byte(kindReply), byte(statusEnd) },
		"reserved 44":        func(b []byte) { b[44] = 1 },
		"reserved 63":        func(b []byte) { b[63] = 1 },
		"length of a read":   func(b []byte) { b[0], b[4] = byte(kindRead), 1 },
		"nothing to read":    func(b []byte) { b[0], b[4], b[5], b[40] = byte(kindRead), 0, 0, 0 },
		"too long a read":    func(b []byte) { b[0], b[4], b[5], b[41] = byte(kindRead), 0, 0, 5 },
		"length of a write":  func(b []byte) { b[4] = 1 },
		"too long a write":   func(b []byte) { le.PutUint32(b[4:], 513*dataBytes); le.PutUint32(b[40:], 513) },
		"nothing to write":   func(b []byte) { le.PutUint32(b[4:], 0); le.PutUint32(b[40:], 0) },
		"too long a reply":   func(b []byte) { b[0] = byte(kindReply); le.PutUint32(b[4:], maxReadBlocks*dataBytes+1) },
		"too long a seal":    func(b []byte) { b[0] = byte(kindSeal); le.PutUint32(b[4:], 1<<20) },
		"data with a delete": func(b []byte) { b[0] = byte(kindDelete) },
		"too long a wish":    func(b []byte) { b[0] = byte(kindGrant) },
		"too long a command": func(b []byte) { b[0] = byte(kindCommand); le.PutUint32(b[4:], maxCommand+1) },
		"flag of a command":  func(b []byte) { b[0], b[1] = byte(kindCommand), 4 },
		"flag of an answer":  func(b []byte) { b[0], b[1] = byte(kindAnswer), 2 },
		"status of command":  func(b []byte) { b[0], b[2] = byte(kindCommand), 1 },
		"status of answer":   func(b []byte) { b[0], b[2] = byte(kindAnswer), byte(ring.StatusWriteLost)+1 },
		"data with a revoke": func(b []byte) { b[0] = byte(kindRevoke) },
	} {
		h := header{kind: kindWrite, length: dataBytes, blocks: 1}
		b := h.append(nil)
		change(b)
		if err := new(header).parse(b); !errors.Is(err, errFrame) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func someSeal() extent.Seal {
	return extent.Seal{Gen: 9, Set: []extent.Member{{Store: idA, Incarnation: 3}, {Store: idB, Incarnation: 1 << 40}},
		Absence: &extent.Absence{Stores: []uuid.UUID{idB}, Behind: extent.Regions{1, 1 << 63}}}
}

// every checks that parse refuses every prefix of b, and b with a byte more.
func every(t *testing.T, what string, b []byte, parse func([]byte) error) {
	t.Helper()
	for n := range b {
		if err := parse(b[:n]); !errors.Is(err, errFrame) {
			t.Errorf("%s cut to %d of %d bytes: %v", what, n, len(b), err)
		}
	}
	if err := parse(append(bytes.Clone(b), 0)); !errors.Is(err, errFrame) {
		t.Errorf("%s with a byte more: %v", what, err)
	}
}

func TestPayloads(t *testing.T) {
	w := someSeal()
	b := appendSeal(nil, &w)
	if got, err := parseSeal(b, 9); err != nil || !reflect.DeepEqual(got, w) {
		t.Errorf("%+v became %+v, %v", w, got, err)
	}
	every(t, "seal", b, func(b []byte) error { _, err := parseSeal(b, 9); return err })
	w.Absence = nil
	if got, err := parseSeal(appendSeal(nil, &w), 9); err != nil || !reflect.DeepEqual(got, w) {
		t.Errorf("%+v became %+v, %v", w, got, err)
	}
	s := extent.Sealed{Gen: 4, Set: w.Set, Absent: []uuid.UUID{idA}, Dirty: extent.Regions{5}, Behind: extent.Regions{6}}
	b = appendSealed(nil, &s)
	if got, err := parseSealed(b); err != nil || !reflect.DeepEqual(got, s) {
		t.Errorf("%+v became %+v, %v", s, got, err)
	}
	every(t, "sealed", b, func(b []byte) error { _, err := parseSealed(b); return err })
	every(t, "map", appendRegions(nil, s.Dirty), func(b []byte) error { _, err := parseMapped(b); return err })
	stores := []announced{{idA, 1, 2}, {idB, 1 << 60, 1}}
	if got, err := parseStores(appendStores(nil, stores)); err != nil || !reflect.DeepEqual(got, stores) {
		t.Errorf("%+v became %+v, %v", stores, got, err)
	}
	for _, n := range []uint32{extent.MaxMembers + 1, 1 << 31} { // counts beyond what may be, with the bytes to back them or not
		b := le.AppendUint32(nil, n)
		b = append(b, make([]byte, 4096)...)
		if _, err := parseSeal(b, 1); !errors.Is(err, errFrame) {
			t.Errorf("a seal of %d members: %v", n, err)
		}
	}
}

// commands are one of each.
func commands() []header {
	var all []header
	for op := ring.OpRead; op <= ring.OpAbort; op++ {
		h := header{kind: kindCommand, tag: 5, block: uint32(op)}
		switch op {
		case ring.OpFlush:
			h.flags = flagTold
		case ring.OpAbort:
		default:
			h.setRange(8192, 4096)
		}
		switch op {
		case ring.OpWrite, ring.OpCompare:
			h.length = 4096
		case ring.OpCompareAndWrite:
			h.length = 8192
		default:
		}
		all = append(all, h)
	}
	return all
}

func TestCommands(t *testing.T) {
	for _, h := range commands() {
		e, err := h.entry()
		if err != nil || e.Op != ring.Op(h.block) || e.Tag != 5 && e.Op != ring.OpAbort {
			t.Errorf("%+v is %+v, %v", h, e, err)
		}
	}
	for name, change := range map[string]func(h *header){
		"no operation":        func(h *header) { h.block = 0 },
		"unknown operation":   func(h *header) { h.block = 10 },
		"operation beyond 8":  func(h *header) { h.block += 256 },
		"tag":                 func(h *header) { h.tag = MaxCommands },
		"range and data":      func(h *header) { h.length = 512 },
		"nothing":             func(h *header) { h.setRange(0, 0); h.length = 0 },
		"wraps around":        func(h *header) { h.setRange(1<<63-1, 4096) },
		"told of a write":     func(h *header) { h.flags = flagTold },
		"data of a read":      func(h *header) { h.block = uint32(ring.OpRead) },
		"too long a read":     func(h *header) { h.block = uint32(ring.OpRead); h.length = 0; h.setRange(0, maxCommand+1) },
		"range of a flush":    func(h *header) { h.block, h.length = uint32(ring.OpFlush), 0 },
		"range of an abort":   func(h *header) { h.block, h.length = uint32(ring.OpAbort), 0 },
		"deallocating a read": func(h *header) { h.block, h.length, h.flags = uint32(ring.OpRead), 0, uint8(ring.FlagDeallocate) },
	} {
		h := header{kind: kindCommand, tag: 5, block: uint32(ring.OpWrite), length: 4096}
		h.setRange(8192, 4096)
		change(&h)
		if e, err := h.entry(); !errors.Is(err, errFrame) {
			t.Errorf("%s: %+v, %v", name, e, err)
		}
	}
}

func TestWishes(t *testing.T) {
	w := Wish{Host: meta.HostID{Protocol: meta.ISCSI, Name: "iqn.2026-11.io.mooring:h", ID: meta.UID{1, 2}}, Epoch: 1 << 40, Told: 3}
	b := appendWish(nil, &w)
	if got, err := parseWish(b); err != nil || got != w {
		t.Errorf("%+v became %+v, %v", w, got, err)
	}
	for n := range wishBytes + 1 {
		if _, err := parseWish(b[:n]); !errors.Is(err, errFrame) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
	for _, p := range []byte{0, 3, 255} {
		b[16] = p
		if _, err := parseWish(b); !errors.Is(err, errFrame) {
			t.Errorf("protocol %d: %v", p, err)
		}
	}
	b[16] = 1
	if _, err := parseWish(append(b, make([]byte, maxHostName)...)); !errors.Is(err, errFrame) {
		t.Errorf("too long a name: %v", err)
	}
}

func TestStatuses(t *testing.T) {
	for s, err := range statusErrors {
		if got := statusOf(err); got != status(s) {
			t.Errorf("%v is status %d, want %d", err, got, s)
		}
	}
	if statusOf(errors.New("what nobody knows")) != statusFailed {
		t.Error("an unknown error is not a failure of the store")
	}
}
