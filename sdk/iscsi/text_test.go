package iscsi

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
)

func TestText(t *testing.T) {
	pairs := []Pair{{"InitiatorName", "iqn.2026-11.com.example:a"}, {"HeaderDigest", "CRC32C,None"}, {"X-com.example.a+b@c_d", ""}, {"A", "b=c"}}
	var b []byte
	for _, p := range pairs {
		b = AppendPair(b, p.Key, p.Value)
	}
	if got, err := ParseText(b); err != nil || !reflect.DeepEqual(got, pairs) {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := ParseText(append([]byte{0, 0}, append(b, 0, 0, 0)...)); err != nil || len(got) != len(pairs) {
		t.Errorf("with more terminators than needed: %v, %v", got, err)
	}
	if got, err := ParseText(nil); err != nil || got != nil {
		t.Errorf("nothing: %v, %v", got, err)
	}
	for name, bad := range map[string]string{
		"not terminated":      "A=b",
		"without =":           "Abc\x00",
		"no key":              "=b\x00",
		"a key with a space":  "A b=c\x00",
		"a key too long":      strings.Repeat("A", 64) + "=c\x00",
		"a value too long":    "A=" + strings.Repeat("b", maxValueBytes+1) + "\x00",
		"more pairs than any": strings.Repeat("A=b\x00", maxPairs+1),
	} {
		if got, err := ParseText([]byte(bad)); !errors.Is(err, ErrText) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func TestNumbers(t *testing.T) {
	for s, want := range map[string]uint64{"0": 0, "8192": 8192, "0x2000": 8192, "0XfF": 255, "16777215": 1<<24 - 1} {
		if n, err := ParseNumber(s); err != nil || n != want {
			t.Errorf("%s: %d, %v", s, n, err)
		}
	}
	for _, s := range []string{"", "0x", "-1", "+1", "1_0", "a", "0x-1", "0b1", " 1", "99999999999999999999999"} {
		if n, err := ParseNumber(s); err == nil {
			t.Errorf("%q is %d", s, n)
		}
	}
	for s, want := range map[string]string{"0x0102ff": "\x01\x02\xff", "0x102": "\x01\x02", "0bAQL/": "\x01\x02\xff"} {
		if b, err := ParseBinary(s, 3); err != nil || string(b) != want {
			t.Errorf("%s: %x, %v", s, b, err)
		}
	}
	for _, s := range []string{"", "0x", "12", "0xzz", "0b*", "0x01020304"} {
		if b, err := ParseBinary(s, 3); err == nil {
			t.Errorf("%q is %x", s, b)
		}
	}
	if b, err := ParseBinary(FormatBinary([]byte{0, 1, 255}), 3); err != nil || !bytes.Equal(b, []byte{0, 1, 255}) {
		t.Errorf("%x, %v", b, err)
	}
}

func TestNames(t *testing.T) {
	for _, good := range []string{
		"iqn.2026-11.io.mooring:dev", "iqn.1991-05.com.microsoft:host-1.example.com", "iqn.2007-10.com.github:sahlberg:libiscsi:iscsi-test",
		"iqn.2008-11.org.linux-kvm", "eui.02004567a425678d", "naa.62004567ba64678d0123456789abcdef", "naa.52004567ba64678d", "iqn.2026-01.ex:ä",
	} {
		if err := CheckName(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{
		"", "iqn", "iqn.", "iqn.2026-11", "iqn.2026-11.", "iqn.2026-13.a", "iqn.2026-00.a", "iqn.20261-1.a", "iqn.2026-11.:x", "iqn.2026-11.A",
		"iqn.2026-11.a b", "iqn.2026-11.a/b", "eui.02", "eui.zz004567a425678d", "naa.02", "nqn.2026-11.io.mooring:dev",
		"iqn.2026-11.a:" + strings.Repeat("x", 223),
	} {
		if CheckName(bad) == nil {
			t.Errorf("%q passes", bad)
		}
	}
}

// wish is what the tests' target would have.
func wish() Params {
	w := DefaultParams()
	w.HeaderDigest, w.DataDigest, w.InitialR2T = true, false, false
	w.FirstBurst, w.MaxOutstandingR2T, w.Time2Wait, w.Time2Retain = 262_144, 4, 2, 0
	return w
}

// Section 13, each key with offers that are good, at the bounds, and bad.
func TestAnswers(t *testing.T) {
	for _, x := range []struct{ key, offer, answer string }{
		{"HeaderDigest", "CRC32C,None", "CRC32C"},
		{"HeaderDigest", "None,CRC32C", "None"},
		{"HeaderDigest", "X-new,None", "None"},
		{"HeaderDigest", "X-new", "Reject"},
		{"DataDigest", "CRC32C,None", "None"},
		{"DataDigest", "CRC32C", "Reject"},
		{"MaxConnections", "8", "1"},
		{"MaxConnections", "0", "Reject"},
		{"MaxConnections", "65536", "Reject"},
		{"InitialR2T", "Yes", "Yes"},
		{"InitialR2T", "No", "No"},
		{"InitialR2T", "yes", "Reject"},
		{"ImmediateData", "Yes", "Yes"},
		{"ImmediateData", "No", "No"},
		{"MaxRecvDataSegmentLength", "262144", ""},
		{"MaxRecvDataSegmentLength", "512", ""},
		{"MaxRecvDataSegmentLength", "511", "Reject"},
		{"MaxRecvDataSegmentLength", "16777216", "Reject"},
		{"MaxBurstLength", "16776192", "262144"},
		{"MaxBurstLength", "0x200", "512"},
		{"MaxBurstLength", "many", "Reject"},
		{"FirstBurstLength", "65536", "65536"},
		{"DefaultTime2Wait", "0", "2"},
		{"DefaultTime2Wait", "3600", "3600"},
		{"DefaultTime2Wait", "3601", "Reject"},
		{"DefaultTime2Retain", "20", "0"},
		{"MaxOutstandingR2T", "1", "1"},
		{"MaxOutstandingR2T", "16", "4"},
		{"DataPDUInOrder", "No", "Yes"},
		{"DataSequenceInOrder", "No", "Yes"},
		{"ErrorRecoveryLevel", "2", "0"},
		{"ErrorRecoveryLevel", "3", "Reject"},
		{"TaskReporting", "FastAbort,RFC3720", "RFC3720"},
		{"iSCSIProtocolLevel", "2", "1"},
		{"RDMAExtensions", "Yes", "No"},
		{"IFMarker", "Yes", "No"},
		{"X-com.example.foo", "1", "NotUnderstood"},
		{"OFMarkInt", "2048~8192", "NotUnderstood"},
	} {
		p, w := DefaultParams(), wish()
		if got := p.Answer(&w, false, x.key, x.offer); got != x.answer {
			t.Errorf("%s=%s is answered with %q, want %q", x.key, x.offer, got, x.answer)
		}
	}
	p, w := DefaultParams(), wish()
	for _, o := range w.Offers(false) {
		p.Answer(&w, false, o.Key, o.Value)
	}
	if p != w {
		t.Errorf("two sides of one mind agree on %+v, want %+v", p, w)
	}
	if got := p.Answer(&w, true, "MaxBurstLength", "512"); got != AnswerIrrelevant || p.MaxBurst != w.MaxBurst {
		t.Errorf("in a discovery session: %q", got)
	}
	if got := p.Answer(&w, true, "MaxRecvDataSegmentLength", "512"); got != "" || p.MaxRecvData != 512 {
		t.Errorf("in a discovery session: %q", got)
	}
	for _, k := range []string{"HeaderDigest", "TaskReporting", "IFMarker"} {
		if !Operational(k) {
			t.Errorf("%s is an operational key", k)
		}
	}
	if Operational("CHAP_A") || Operational("InitiatorName") {
		t.Error("neither CHAP_A nor InitiatorName is")
	}
}

// What a target may answer is what the offer allows.
func TestAccept(t *testing.T) {
	w := wish()
	for _, x := range []struct {
		key, answer string
		ok          bool
	}{
		{"HeaderDigest", "CRC32C", true}, {"HeaderDigest", "None", true}, {"HeaderDigest", "X", false}, {"DataDigest", "CRC32C", false},
		{"InitialR2T", "No", true}, {"InitialR2T", "Yes", true}, {"InitialR2T", "maybe", false},
		{"DataPDUInOrder", "No", false}, {"ImmediateData", "No", true},
		{"MaxBurstLength", "262144", true}, {"MaxBurstLength", "262145", false}, {"MaxBurstLength", "511", false},
		{"DefaultTime2Wait", "1", false}, {"DefaultTime2Wait", "5", true}, {"MaxRecvDataSegmentLength", "65536", true},
		{"MaxRecvDataSegmentLength", "1", false}, {"MaxOutstandingR2T", "Irrelevant", true}, {"TargetAlias", "x", true},
	} {
		p := DefaultParams()
		if err := p.Accept(&w, x.key, x.answer); (err == nil) != x.ok {
			t.Errorf("%s=%s: %v", x.key, x.answer, err)
		}
	}
}

// RFC 1994 has no vectors: that of MD5 is what openssl says of 01, "secretsecret", 0102.
func TestCHAP(t *testing.T) {
	seen := map[string]bool{}
	for a, n := range map[CHAPAlgorithm]int{CHAPMD5: 16, CHAPSHA1: 20, CHAPSHA256: 32, CHAPSHA3256: 32} {
		r := CHAPResponse(a, 1, []byte("secretsecret"), []byte{1, 2})
		if len(r) != n || seen[string(r)] || !a.Known() {
			t.Errorf("algorithm %d gives %x", a, r)
		}
		seen[string(r)] = true
	}
	const md5 = "0xe7a4137f6d8beb6d89f6efab87ec5155"
	if got := FormatBinary(CHAPResponse(CHAPMD5, 1, []byte("secretsecret"), []byte{1, 2})); got != md5 {
		t.Errorf("MD5 gives %s, want %s", got, md5)
	}
	if CHAPAlgorithm(4).Known() || CHAPAlgorithm(9).Known() {
		t.Error("algorithms that nobody knows")
	}
	if !CHAPEqual([]byte{1}, []byte{1}) || CHAPEqual([]byte{1}, []byte{2}) || CHAPEqual([]byte{1}, []byte{1, 2}) {
		t.Error("comparison")
	}
}

// FuzzText parses anything as a text, and negotiates whatever was in it.
func FuzzText(f *testing.F) {
	f.Add([]byte("InitiatorName=iqn.2026-11.com.example:a\x00HeaderDigest=CRC32C,None\x00MaxBurstLength=0x10000\x00"))
	f.Add([]byte("CHAP_R=0x0011\x00CHAP_C=0bAQL/\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		pairs, err := ParseText(b)
		if err != nil {
			return
		}
		var again []byte
		p, w := DefaultParams(), wish()
		for _, x := range pairs {
			again = AppendPair(again, x.Key, x.Value)
			_ = CheckName(x.Value)
			_, _ = ParseBinary(x.Value, 64)
			before := p
			if a := p.Answer(&w, false, x.Key, x.Value); (a == AnswerReject || a == AnswerNotUnderstood) && p != before {
				t.Fatalf("%s=%s was answered with %s, and changed something", x.Key, x.Value, a)
			}
		}
		if p.MaxRecvData < 512 || p.MaxBurst < 512 || p.FirstBurst < 512 || p.MaxConnections != 1 || p.ErrorRecoveryLevel != 0 {
			t.Fatalf("%+v", p)
		}
		if got, err := ParseText(again); err != nil || !reflect.DeepEqual(got, pairs) {
			t.Fatalf("%v, then %v, %v", pairs, got, err)
		}
	})
}
