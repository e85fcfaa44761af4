package nvmetcp

import (
	"errors"
	"testing"
)

// TestCheck holds the rules for common headers. The name is the rule, the comment its section.
func TestCheck(t *testing.T) {
	plain := Link{From: Host, MaxInCapsule: 8192}
	digests := Link{From: Host, HeaderDigest: true, DataDigest: true, Align: 64, MaxInCapsule: 8192}
	back := Link{From: Controller}
	backDigests := Link{From: Controller, HeaderDigest: true, DataDigest: true, Align: 16}
	const hd, dd = FlagHeaderDigest, FlagDataDigest
	for _, tt := range []struct {
		name string
		l    Link
		h    Header
		want *TermError
	}{
		// TCP 3.3, Figure 10
		{"a controller takes no ICResp", plain, Header{TypeICResp, 0, 128, 0, 128}, ErrType},
		{"a controller takes no R2T", plain, Header{TypeR2T, 0, 24, 0, 24}, ErrType},
		{"a host takes no CapsuleCmd", back, Header{TypeCapsuleCmd, 0, 72, 0, 72}, ErrType},
		{"type 08h is not assigned", plain, Header{8, 0, 24, 0, 24}, ErrType},
		{"type 0Bh is not assigned", back, Header{0xb, 0, 24, 0, 24}, ErrType},
		{"type FFh is not assigned", back, Header{0xff, 0, 24, 0, 24}, ErrType},
		{"the lowest wrong field is named", plain, Header{0xff, 3, 1, 2, 3}, ErrType}, // TCP 3.6.2.5

		// TCP 3.6.2.2 and 3.6.2.3
		{"ICReq has 128 bytes", plain, Header{TypeICReq, 0, 128, 0, 128}, nil},
		{"ICReq ignores reserved FLAGS and PDO", plain, Header{TypeICReq, 0xff, 128, 0xff, 128}, nil},
		{"ICReq of HLEN 127", plain, Header{TypeICReq, 0, 127, 0, 128}, ErrHLEN},
		{"ICReq of PLEN 129", plain, Header{TypeICReq, 0, 128, 0, 129}, ErrPLEN},
		{"ICReq of PLEN 127", plain, Header{TypeICReq, 0, 128, 0, 127}, ErrPLEN},
		{"ICResp has 128 bytes", back, Header{TypeICResp, 0, 128, 0, 128}, nil},
		{"ICReq never has a digest", digests, Header{TypeICReq, 0, 128, 0, 128}, nil},

		// TCP 3.5
		{"TermReq alone", plain, Header{TypeH2CTermReq, 0, 24, 0, 24}, nil},
		{"TermReq of 152 bytes", plain, Header{TypeH2CTermReq, 0, 24, 0, 152}, nil},
		{"TermReq of 153 bytes is not answered", plain, Header{TypeH2CTermReq, 0, 24, 0, 153}, ErrTermReqSize},
		{"TermReq of 23 bytes is not answered", plain, Header{TypeH2CTermReq, 0, 24, 0, 23}, ErrTermReqSize},
		{"TermReq of HLEN 8 is not answered", back, Header{TypeC2HTermReq, 0, 8, 0, 24}, ErrTermReqSize},
		{"TermReq never has a digest", backDigests, Header{TypeC2HTermReq, 0, 24, 0, 96}, nil},

		// TCP 3.6.2.6
		{"CapsuleCmd without data", plain, Header{TypeCapsuleCmd, 0, 72, 0, 72}, nil},
		{"CapsuleCmd without data, whatever PDO", plain, Header{TypeCapsuleCmd, 0, 72, 3, 72}, nil},
		{"CapsuleCmd with data", plain, Header{TypeCapsuleCmd, 0, 72, 72, 72 + 4096}, nil},
		{"CapsuleCmd ignores reserved flags", plain, Header{TypeCapsuleCmd, 0xfc, 72, 72, 72 + 4096}, nil},
		{"CapsuleCmd of HLEN 64", plain, Header{TypeCapsuleCmd, 0, 64, 0, 72}, ErrHLEN},
		{"CapsuleCmd shorter than its header", plain, Header{TypeCapsuleCmd, 0, 72, 0, 71}, ErrPLEN},
		{"CapsuleCmd of length 0", plain, Header{TypeCapsuleCmd, 0, 72, 0, 0}, ErrPLEN},
		{"CapsuleCmd with data within the header", plain, Header{TypeCapsuleCmd, 0, 72, 68, 72 + 512}, ErrPDO},
		{"CapsuleCmd with data past the end", plain, Header{TypeCapsuleCmd, 0, 72, 80, 76}, ErrPDO},
		{"CapsuleCmd with PDO not a multiple of 4", plain, Header{TypeCapsuleCmd, 0, 72, 74, 74 + 512}, ErrPDO},
		{"CapsuleCmd with padding only", plain, Header{TypeCapsuleCmd, 0, 72, 76, 76}, ErrPLEN},
		{"CapsuleCmd of 8,192 bytes of data", plain, Header{TypeCapsuleCmd, 0, 72, 72, 72 + 8192}, nil},
		{"CapsuleCmd of 8,193 bytes of data", plain, Header{TypeCapsuleCmd, 0, 72, 72, 72 + 8193}, ErrCapsuleSize}, // TCP 3.3.1
		{"CapsuleCmd of 4 GiB", plain, Header{TypeCapsuleCmd, 0, 72, 72, 0xffff_ffff}, ErrCapsuleSize},

		// TCP 3.3.1.1
		{"header digest not negotiated", plain, Header{TypeCapsuleCmd, hd, 72, 0, 76}, ErrDigestFlags},
		{"header digest missing", digests, Header{TypeCapsuleCmd, 0, 72, 0, 72}, ErrDigestFlags},
		{"header digest present", digests, Header{TypeCapsuleCmd, hd, 72, 0, 76}, nil},
		{"data digest not negotiated", plain, Header{TypeCapsuleCmd, dd, 72, 72, 72 + 516}, ErrDigestFlags},
		{"data digest missing", digests, Header{TypeCapsuleCmd, hd, 72, 128, 128 + 512}, ErrDigestFlags},
		{"both digests, aligned", digests, Header{TypeCapsuleCmd, hd | dd, 72, 128, 128 + 516}, nil},
		{"data digest flag without data says nothing", digests, Header{TypeCapsuleCmd, hd | dd, 72, 0, 76}, nil},
		{"digests leave no room for data", digests, Header{TypeCapsuleCmd, hd | dd, 72, 128, 132}, ErrPLEN},
		{"data over the header digest", Link{HeaderDigest: true, MaxInCapsule: 512}, Header{TypeCapsuleCmd, hd, 72, 72, 76 + 512}, ErrPDO},
		{"alignment of 12 bytes", Link{Align: 12, MaxInCapsule: 512}, Header{TypeCapsuleCmd, 0, 72, 84, 84 + 512}, nil}, // TCP 3.6.2.3
		{"data not aligned to CPDA", digests, Header{TypeCapsuleCmd, hd | dd, 72, 96, 96 + 516}, ErrPDO},                // TCP 3.6.2.6

		// TCP 3.6.2.7 and 3.6.2.10
		{"CapsuleResp", back, Header{TypeCapsuleResp, 0, 24, 0, 24}, nil},
		{"CapsuleResp with data", back, Header{TypeCapsuleResp, 0, 24, 24, 32}, ErrPLEN},
		{"CapsuleResp has no data digest", backDigests, Header{TypeCapsuleResp, hd | dd, 24, 0, 28}, nil},
		{"R2T with digest", backDigests, Header{TypeR2T, hd, 24, 0, 28}, nil},
		{"R2T with digest, too short", backDigests, Header{TypeR2T, hd, 24, 0, 24}, ErrPLEN},

		// TCP 3.6.2.8 and 3.6.2.9
		{"H2CData", plain, Header{TypeH2CData, FlagLast, 24, 24, 24 + 4}, nil},
		{"H2CData without data", plain, Header{TypeH2CData, 0, 24, 24, 24}, ErrPLEN},
		{"H2CData without data or PDO", plain, Header{TypeH2CData, 0, 24, 0, 24}, ErrPDO},
		{"H2CData of PLEN 8", plain, Header{TypeH2CData, 0, 24, 24, 8}, ErrPLEN},
		{"C2HData with SUCCESS and LAST_PDU", back, Header{TypeC2HData, FlagLast | FlagSuccess, 24, 24, 28}, nil},
		{"C2HData with SUCCESS alone", back, Header{TypeC2HData, FlagSuccess, 24, 24, 28}, ErrSuccessFlag}, // TCP 3.3.2.1
		{"H2CData has no SUCCESS", plain, Header{TypeH2CData, FlagSuccess, 24, 24, 28}, nil},
		{"C2HData aligned to HPDA", backDigests, Header{TypeC2HData, hd | dd, 24, 32, 32 + 516}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.l.Check(tt.h); got != tt.want {
				t.Errorf("%+v: %v, want %v", tt.h, got, tt.want)
			}
		})
	}
}

// TestCheckData holds the rules for data PDUs within a transfer. TCP 3.3.2
func TestCheckData(t *testing.T) {
	host, back := Link{From: Host}, Link{From: Controller}
	// The R2T asked for bytes 4,096 to 12,287; 4,096 of them are here already.
	r2t := Expect{Next: 8192, End: 12288, Max: 4096}
	h2c := func(flags Flags, off, n uint32) Data {
		return Data{Header: host.Header(TypeH2CData, flags, n), Offset: off, Length: n}
	}
	c2h := func(flags Flags, off, n uint32) Data {
		return Data{Header: back.Header(TypeC2HData, flags, n), Offset: off, Length: n}
	}
	lies := h2c(FlagLast, 8192, 4096)
	lies.Length = 2048
	for _, tt := range []struct {
		name string
		l    Link
		d    Data
		e    Expect
		want *TermError
	}{
		{"the rest, last", host, h2c(FlagLast, 8192, 4096), r2t, nil},
		{"a part, not last", host, h2c(0, 8192, 2048), r2t, nil},
		{"a part, last", host, h2c(FlagLast, 8192, 2048), r2t, ErrLastFlag},
		{"the rest, not last", host, h2c(0, 8192, 4096), r2t, ErrLastFlag},
		{"a gap", host, h2c(FlagLast, 8196, 4092), r2t, ErrOutOfOrder},           // TCP 3.3.2.2
		{"again what came before", host, h2c(0, 4096, 4096), r2t, ErrOutOfOrder}, // TCP 3.3.2.2
		{"one dword too many", host, h2c(FlagLast, 8192, 4100), r2t, ErrOutOfRange},
		{"behind the end", host, h2c(FlagLast, 12288, 4), r2t, ErrOutOfRange},
		{"offset and length that wrap", host, h2c(FlagLast, 0xffff_fffc, 8), r2t, ErrOutOfRange},
		{"above MAXH2CDATA", host, h2c(FlagLast, 8192, 4096), Expect{8192, 12288, 2048}, ErrDataLimit},
		{"offset not a multiple of 4", host, h2c(FlagLast, 8190, 4), r2t, ErrOffset}, // TCP 3.6.2.8
		{"length not a multiple of 4", host, h2c(0, 8192, 6), r2t, ErrLength},        // TCP 3.6.2.8
		{"DATAL is not what the PDU has", host, lies, r2t, ErrLength},
		{"DATAL is 0", host, Data{Header: host.Header(TypeH2CData, 0, 4), Offset: 8192}, r2t, ErrLength},
		{"data to the host", back, c2h(0, 0, 4096), Expect{End: 8192}, nil},
		{"data to the host may end early", back, c2h(FlagLast|FlagSuccess, 0, 4096), Expect{End: 8192}, nil},
		{"data to the host has no limit of length", back, c2h(FlagLast, 0, 1<<20), Expect{End: 1 << 20}, nil},
		{"data to the host beyond its buffer", back, c2h(FlagLast, 4096, 8192), Expect{Next: 4096, End: 8192}, ErrOutOfRange}, // TCP 3.3.2.1
		{"data to the host out of order", back, c2h(0, 4096, 4), Expect{End: 8192}, ErrOutOfOrder},                            // TCP 3.3.2.1
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.l.CheckData(tt.d, tt.e); got != tt.want {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
}

func TestR2TCheck(t *testing.T) { // TCP 3.3.2.2, 3.6.2.10
	e := Expect{Next: 4096, End: 8192}
	for _, tt := range []struct {
		name string
		r    R2T
		want *TermError
	}{
		{"all of the rest", R2T{Offset: 4096, Length: 4096}, nil},
		{"a gap", R2T{Offset: 4100, Length: 4}, ErrOutOfOrder},
		{"beyond the buffer", R2T{Offset: 4096, Length: 4100}, ErrOutOfRange},
		{"nothing", R2T{Offset: 4096}, ErrLength},
		{"odd length", R2T{Offset: 4096, Length: 2}, ErrLength},
		{"odd offset", R2T{Offset: 4097, Length: 4}, ErrOffset},
	} {
		if got := tt.r.Check(e); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestICCheck(t *testing.T) { // TCP 3.1, 3.3.1.1, 3.6.2.2, 3.6.2.3
	req := func(change func(*ICReq)) *TermError {
		p := NewICReq()
		change(&p)
		return p.Check()
	}
	resp := func(change func(*ICResp)) *TermError {
		asked, p := NewICReq(), NewICResp()
		asked.HeaderDigest = true
		change(&p)
		return p.Check(asked)
	}
	for _, tt := range []struct {
		name      string
		got, want *TermError
	}{
		{"plain ICReq", req(func(*ICReq) {}), nil},
		{"alignment of 128 bytes", req(func(p *ICReq) { p.Align = 128 }), nil},
		{"alignment above 128 bytes", req(func(p *ICReq) { p.Align = 132 }), ErrPDA},
		{"another format version", req(func(p *ICReq) { p.Version = 1 }), ErrPFV},
		{"plain ICResp", resp(func(*ICResp) {}), nil},
		{"digest that was asked for", resp(func(p *ICResp) { p.HeaderDigest = true }), nil},
		{"digest that was not asked for", resp(func(p *ICResp) { p.DataDigest = true }), ErrDigestNotAsked},
		{"MAXH2CDATA of 0", resp(func(p *ICResp) { p.MaxH2CData = 0 }), ErrMaxH2CData},
		{"MAXH2CDATA not a multiple of 4", resp(func(p *ICResp) { p.MaxH2CData = 4098 }), ErrMaxH2CData},
		{"ICResp of another version", resp(func(p *ICResp) { p.Version = 1 }), ErrPFV},
		{"ICResp alignment above 128 bytes", resp(func(p *ICResp) { p.Align = 256 }), ErrPDA},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, tt.got, tt.want)
		}
	}
	parsed, _, err := ParseICReq(NewICReq().Append(nil))
	if err != nil || parsed.MaxR2T != 1 || parsed.Align != 4 {
		t.Errorf("MAXR2T and HPDA are zero-based: %+v, %v", parsed, err)
	}
}

// TestFatalTable holds status and field of each error. TCP 3.6.2.4 and 3.6.2.5
func TestFatalTable(t *testing.T) {
	for _, tt := range []struct {
		e   *TermError
		fes FES
		fei uint32
	}{
		{ErrType, 1, 0},
		{ErrDigestFlags, 1, 1},
		{ErrSuccessFlag, 1, 1},
		{ErrLastFlag, 1, 1},
		{ErrHLEN, 1, 2},
		{ErrPDO, 1, 3},
		{ErrPLEN, 1, 4},
		{ErrInCapsule, 1, 4},
		{ErrPFV, 6, 8},
		{ErrPDA, 1, 10},
		{ErrDigestNotAsked, 1, 11},
		{ErrMaxH2CData, 1, 12},
		{ErrCCCID, 1, 8},
		{ErrTTAG, 1, 10},
		{ErrOffset, 1, 12},
		{ErrLength, 1, 16},
		{ErrSequence, 2, 0},
		{ErrOutOfOrder, 2, 0},
		{ErrOutOfRange, 4, 0},
		{ErrDataLimit, 5, 0},
		{ErrR2TLimit, 5, 0},
		{ErrCapsuleSize, 5, 0},
	} {
		if tt.e.FES != tt.fes || tt.e.FEI != tt.fei || tt.e.Silent() {
			t.Errorf("%v: status %d, information %d", tt.e, tt.fes, tt.fei)
		}
	}
	if !ErrTermReqSize.Silent() {
		t.Error("a TermReq must not answer a TermReq")
	}
	var te *TermError
	if !errors.As(error(ErrPDO), &te) {
		t.Error("TermError is no error")
	}
	if got := ErrPDO.Error(); got != "peer sent a bad PDU: PDO lies within the header, past the end, or is not aligned (invalid PDU header field, information 0x3)" {
		t.Error(got)
	}
}

// TestLayoutIsAccepted: what Header lays out, Check accepts, for every alignment and digest.
func TestLayoutIsAccepted(t *testing.T) { // TCP 3.3
	for pda := range 32 {
		for d := range 4 {
			req, resp := NewICReq(), NewICResp()
			req.Align, resp.Align = alignOf(byte(pda)), alignOf(byte(pda))
			resp.HeaderDigest, resp.DataDigest = d&1 != 0, d&2 != 0
			fromHost, fromController := Links(req, resp, 8192)
			for _, tt := range []struct {
				l Link
				t Type
				n uint32
			}{
				{fromHost, TypeCapsuleCmd, 0},
				{fromHost, TypeCapsuleCmd, 8192},
				{fromHost, TypeH2CData, 4},
				{fromController, TypeC2HData, 4096},
				{fromController, TypeCapsuleResp, 0},
				{fromController, TypeR2T, 0},
				{fromController, TypeC2HTermReq, 72},
			} {
				h := tt.l.Header(tt.t, 0, tt.n)
				if te := tt.l.Check(h); te != nil || tt.l.DataLen(h) != tt.n || h.PDO > MaxDataOffset {
					t.Fatalf("%+v: %v, %d bytes of data, want %d", h, te, tt.l.DataLen(h), tt.n)
				}
			}
		}
	}
}
