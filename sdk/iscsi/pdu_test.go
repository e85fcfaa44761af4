package iscsi

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"
)

// pdu is a PDU's header as it stands on the wire and as a value.
type pdu struct {
	op    Opcode
	name  string // with the section
	wire  string // hexadecimal, spaces do not count
	value appender
	parse func([]byte) (appender, int, error)
}

type appender interface {
	Append([]byte) []byte
	Len() int
}

func of[T any, P interface {
	*T
	appender
}](op Opcode, section, wire string, v T, parse func([]byte) (T, int, error)) pdu {
	return pdu{op, op.String() + " " + section, wire, P(&v), func(b []byte) (appender, int, error) {
		v, n, err := parse(b)
		return P(&v), n, err
	}}
}

var order = Order{CmdSN: 0x11121314, ExpStatSN: 0x21222324}
var window = Window{StatSN: 0x31323334, ExpCmdSN: 0x41424344, MaxCmdSN: 0x51525354}

// The layouts are those of the figures in section 11; each line is 16 bytes.
var pdus = []pdu{
	of(OpSCSICommand, "11.3", `
		01 a1 0000 00 000200 0001000000000000
		00000005 00000200 11121314 21222324
		2a000000000700000100000000000000`,
		SCSICommand{Order: order, Final: true, Write: true, Attribute: TaskSimple, LUN: LUN{1: 1}, ITT: 5, ExpectedLength: 512,
			CDB: [16]byte{0x2a, 5: 7, 8: 1}, DataBytes: 512}, ParseSCSICommand),
	of(OpSCSIResponse, "11.4", `
		21 84 0002 00 000014 0000000000000000
		00000005 00000000 31323334 41424344
		51525354 00000003 00000000 00000200`,
		SCSIResponse{Window: window, Overflow: true, Status: 2, ITT: 5, ExpDataSN: 3, Residual: 512, DataBytes: 20}, ParseSCSIResponse),
	of(OpTaskRequest, "11.5", `
		42 85 0000 00 000000 0002000000000000
		00000006 ffffffff 11121314 21222324
		00000009 00000000 00000000 00000000`,
		TaskRequest{Order: Order{true, order.CmdSN, order.ExpStatSN}, Function: LogicalReset, LUN: LUN{1: 2}, ITT: 6, RefTag: NoTag, RefCmdSN: 9}, ParseTaskRequest),
	of(OpTaskResponse, "11.6", `
		22 80 0100 00 000000 0000000000000000
		00000006 00000000 31323334 41424344
		51525354 00000000 00000000 00000000`,
		TaskResponse{Window: window, Result: TaskDoesNotExist, ITT: 6}, ParseTaskResponse),
	of(OpDataOut, "11.7", `
		05 80 0000 00 001000 0001000000000000
		00000005 00000077 00000000 21222324
		00000000 00000002 00002000 00000000`,
		DataOut{Final: true, LUN: LUN{1: 1}, ITT: 5, TTT: 0x77, ExpStatSN: order.ExpStatSN, DataSN: 2, Offset: 8192, DataBytes: 4096}, ParseDataOut),
	of(OpDataIn, "11.7", `
		25 83 0000 00 001000 0000000000000000
		00000005 ffffffff 31323334 41424344
		51525354 00000001 00001000 00000200`,
		DataIn{Window: window, Final: true, Underflow: true, HasStatus: true, ITT: 5, DataSN: 1, Offset: 4096, Residual: 512, DataBytes: 4096}, ParseDataIn),
	of(OpR2T, "11.8", `
		31 80 0000 00 000000 0001000000000000
		00000005 00000077 31323334 41424344
		51525354 00000001 00002000 00001000`,
		R2T{Window: window, LUN: LUN{1: 1}, ITT: 5, TTT: 0x77, R2TSN: 1, Offset: 8192, Length: 4096}, ParseR2T),
	of(OpAsyncMessage, "11.9", `
		32 80 0000 00 000000 0000000000000000
		ffffffff 00000000 31323334 41424344
		51525354 01 00 0002 0003 0004 00000000`,
		AsyncMessage{Window: window, Event: AsyncLogout, Parameter1: 2, Parameter2: 3, Parameter3: 4}, ParseAsyncMessage),
	of(OpTextRequest, "11.10", `
		44 80 0000 00 000010 0000000000000000
		00000008 ffffffff 11121314 21222324
		00000000 00000000 00000000 00000000`,
		TextRequest{Order: Order{true, order.CmdSN, order.ExpStatSN}, Final: true, ITT: 8, TTT: NoTag, DataBytes: 16}, ParseTextRequest),
	of(OpTextResponse, "11.11", `
		24 40 0000 00 002000 0000000000000000
		00000008 00000001 31323334 41424344
		51525354 00000000 00000000 00000000`,
		TextResponse{Window: window, Continue: true, ITT: 8, TTT: 1, DataBytes: 8192}, ParseTextResponse),
	of(OpLoginRequest, "11.12", `
		43 87 0000 00 000123 00023d000001 0000
		00000001 0002 0000 11121314 21222324
		00000000 00000000 00000000 00000000`,
		LoginRequest{Transit: true, Current: StageOperational, Next: StageFullFeature, ISID: ISID{0, 2, 0x3d, 0, 0, 1}, ITT: 1, CID: 2,
			CmdSN: order.CmdSN, ExpStatSN: order.ExpStatSN, DataBytes: 0x123}, ParseLoginRequest),
	of(OpLoginResponse, "11.13", `
		23 87 0000 00 000020 00023d000001 0009
		00000001 00000000 31323334 41424344
		51525354 0101 0000 00000000 00000000`,
		LoginResponse{Window: window, Transit: true, Current: StageOperational, Next: StageFullFeature, ISID: ISID{0, 2, 0x3d, 0, 0, 1}, TSIH: 9,
			ITT: 1, Status: LoginMovedTemporarily, DataBytes: 32}, ParseLoginResponse),
	of(OpLogoutRequest, "11.14", `
		46 81 0000 00 000000 0000000000000000
		00000003 0002 0000 11121314 21222324
		00000000 00000000 00000000 00000000`,
		LogoutRequest{Order: Order{true, order.CmdSN, order.ExpStatSN}, Reason: LogoutConnection, ITT: 3, CID: 2}, ParseLogoutRequest),
	of(OpLogoutResponse, "11.15", `
		26 80 0100 00 000000 0000000000000000
		00000003 00000000 31323334 41424344
		51525354 00000000 0002 0014 00000000`,
		LogoutResponse{Window: window, Result: LogoutNoCID, ITT: 3, Time2Wait: 2, Time2Retain: 20}, ParseLogoutResponse),
	of(OpReject, "11.17", `
		3f 80 0400 00 000030 0000000000000000
		ffffffff 00000000 31323334 41424344
		51525354 00000007 00000000 00000000`,
		Reject{Window: window, Reason: RejectProtocolError, DataSN: 7, DataBytes: 48}, ParseReject),
	of(OpNopOut, "11.18", `
		40 80 0000 00 000004 0000000000000000
		ffffffff 00000010 11121314 21222324
		00000000 00000000 00000000 00000000`,
		NopOut{Order: Order{true, order.CmdSN, order.ExpStatSN}, ITT: NoTag, TTT: 0x10, DataBytes: 4}, ParseNopOut),
	of(OpNopIn, "11.19", `
		20 80 0000 00 000000 0001000000000000
		ffffffff 00000010 31323334 41424344
		51525354 00000000 00000000 00000000`,
		NopIn{Window: window, LUN: LUN{1: 1}, ITT: NoTag, TTT: 0x10}, ParseNopIn),
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestPDUs(t *testing.T) {
	for _, x := range pdus {
		t.Run(x.name, func(t *testing.T) {
			wire := unhex(t, x.wire)
			if len(wire) != HeaderSize {
				t.Fatalf("the sample has %d bytes", len(wire))
			}
			if got := x.value.Append([]byte{1, 2, 3})[3:]; !bytes.Equal(got, wire) {
				t.Errorf("appended\n%x, want\n%x", got, wire)
			}
			v, n, err := x.parse(append(wire, 9))
			if err != nil || n != HeaderSize || !reflect.DeepEqual(v, x.value) {
				t.Errorf("parsed %+v, %d, %v, want\n%+v", v, n, err, x.value)
			}
			if x.value.Len() != HeaderSize {
				t.Errorf("Len is %d", x.value.Len())
			}
			for i := range HeaderSize {
				var s *ShortError
				if _, _, err := x.parse(wire[:i]); !errors.As(err, &s) || s.Have != i {
					t.Errorf("a prefix of %d bytes: %v", i, err)
				}
			}
			h, _, err := ParseHeader(wire)
			if err != nil || h.Opcode != x.op || h.Opcode.FromTarget() != (wire[0]&0x20 != 0) {
				t.Errorf("the header is that of %s, %v", h.Opcode, err)
			}
		})
	}
}

func TestHeader(t *testing.T) {
	b := unhex(t, `41 a1 0000 02 000201 0001000000000000 00000005`)
	b = append(b, make([]byte, HeaderSize-len(b))...)
	h, _, err := ParseHeader(b)
	if want := (Header{OpSCSICommand, true, true, 8, 513, 5}); err != nil || h != want {
		t.Fatalf("%+v, %v, want %+v", h, err, want)
	}
	for _, x := range []struct {
		link       Link
		head, tail int
	}{
		{Link{}, 56, 3},
		{Link{HeaderDigest: true}, 60, 3},
		{Link{DataDigest: true}, 56, 7},
		{Link{true, true}, 60, 7},
	} {
		if head, tail := x.link.HeaderLen(h), x.link.TailLen(h.DataBytes); head != x.head || tail != x.tail {
			t.Errorf("%+v: %d and %d, want %d and %d", x.link, head, tail, x.head, x.tail)
		}
		if x.link.TailLen(0) != 0 {
			t.Error("no data has no digest")
		}
	}
	for i := range HeaderSize {
		if _, _, err := ParseHeader(b[:i]); err == nil {
			t.Errorf("a prefix of %d bytes is a header", i)
		}
	}
}

// The examples of RFC 7143, appendix A.4 (of RFC 3720, B.4), with the bytes in wire order.
func TestDigest(t *testing.T) {
	up, down := make([]byte, 32), make([]byte, 32)
	for i := range up {
		up[i], down[31-i] = byte(i), byte(i)
	}
	for _, x := range []struct {
		name string
		data []byte
		want string
	}{
		{"32 bytes of zeroes", make([]byte, 32), "aa36918a"},
		{"32 bytes of ones", bytes.Repeat([]byte{0xff}, 32), "43aba862"},
		{"32 bytes of incrementing", up, "4e79dd46"},
		{"32 bytes of decrementing", down, "5cdb3f11"},
		{"an iSCSI Read (10) command", unhex(t, `01c00000 00000000 00000000 00000000 14000000 00000400 00000014 00000018 28000000 00000000 02000000 00000000`), "563a96d9"},
	} {
		got := AppendDigest(nil, Digest(x.data))
		if hex.EncodeToString(got) != x.want {
			t.Errorf("%s: %x, want %s", x.name, got, x.want)
		}
		if ParseDigest(got) != Digest(x.data) {
			t.Errorf("%s: not read back", x.name)
		}
	}
	l := Link{true, true}
	data := []byte{1, 2, 3, 4, 5}
	tail := l.AppendTail(nil, data)
	if len(tail) != l.TailLen(5) || ParseDigest(tail[3:]) != Digest([]byte{1, 2, 3, 4, 5, 0, 0, 0}) {
		t.Errorf("tail %x", tail)
	}
	if b := l.SealHeader([]byte{9, 1, 2}, 1); ParseDigest(b[3:]) != Digest([]byte{1, 2}) {
		t.Errorf("sealed %x", b)
	}
}

func TestAHS(t *testing.T) {
	for _, n := range []int{1, 2, 5, 16, 17, 300} {
		a := AHS{AHSExtendedCDB, bytes.Repeat([]byte{7}, n)}
		b := a.Append(nil)
		if len(b)%4 != 0 || len(b) != a.Len() {
			t.Errorf("%d bytes make %d, Len %d", n, len(b), a.Len())
		}
		got, used, err := ParseAHS(append(bytes.Clone(b), 1, 2))
		if err != nil || used != len(b) || !reflect.DeepEqual(got, a) {
			t.Errorf("%+v, %d, %v", got, used, err)
		}
		for i := range b {
			if _, _, err := ParseAHS(b[:i]); err == nil {
				t.Errorf("a prefix of %d of %d bytes is a segment", i, len(b))
			}
		}
	}
	if _, _, err := ParseAHS([]byte{0, 0, 1, 0}); err == nil {
		t.Error("a segment of no bytes")
	}
}

func TestSN(t *testing.T) {
	for _, x := range []struct {
		a, b SN
		want bool
	}{{1, 2, true}, {2, 1, false}, {1, 1, false}, {0xffff_fffe, 3, true}, {3, 0xffff_fffe, false}} {
		if x.a.Before(x.b) != x.want {
			t.Errorf("%d before %d is not %t", x.a, x.b, x.want)
		}
	}
}

// FuzzPDUs parses anything as every PDU: what was parsed must come back the same once appended.
func FuzzPDUs(f *testing.F) {
	for _, x := range pdus {
		f.Add(unhex(f, x.wire))
	}
	f.Add(AHS{AHSBidirectional, []byte{0, 0, 0, 2, 0}}.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, n, err := ParseAHS(b); err == nil {
			again, m, err := ParseAHS(a.Append(nil))
			if err != nil || m != n || !reflect.DeepEqual(a, again) {
				t.Fatalf("%+v, then %+v, %v", a, again, err)
			}
		}
		for _, x := range pdus {
			v, n, err := x.parse(b)
			if err != nil {
				if len(b) >= HeaderSize {
					t.Fatalf("%s: %v", x.name, err)
				}
				continue
			}
			wire := v.Append(nil)
			again, m, err := x.parse(wire)
			if err != nil || m != n || !reflect.DeepEqual(v, again) {
				t.Fatalf("%s: %+v, then %+v, %v", x.name, v, again, err)
			}
		}
	})
}
