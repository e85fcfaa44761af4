package cm

import (
	"bytes"
	"encoding/hex"
	"testing"

	"github.com/mooring-io/mooring/sdk/nvme"
)

// linuxRequest is what Linux sends for I/O queue 1 of 128 entries: 56 bytes, padded.
var linuxRequest = unhex("0000" + "0100" + "8000" + "7f00" + "0000")

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return append(b, make([]byte, 56-len(b))...)
}

func TestRequest(t *testing.T) {
	r, n, err := ParseRequest(linuxRequest)
	want := Request{Queue: 1, Receives: 128, Entries: 128}
	if err != nil || n != RequestSize || r != want {
		t.Fatalf("%+v, %d bytes, %v; want %+v", r, n, err, want)
	}
	if b := r.Append(nil); !bytes.Equal(b, linuxRequest[:RequestSize]) || r.Len() != len(b) {
		t.Fatalf("encoded again: %x", b)
	}
	for i := range RequestSize {
		if _, _, err := ParseRequest(linuxRequest[:i]); err == nil {
			t.Errorf("%d bytes were taken for a request", i)
		}
	}
}

func TestAnswers(t *testing.T) {
	a := Accept{Entries: 128}
	b := a.Append(nil)
	if got, n, err := ParseAccept(b); err != nil || n != len(b) || n != a.Len() || got != a || b[2] != 128 {
		t.Errorf("accept %x: %+v, %d, %v", b, got, n, err)
	}
	for i := range b {
		if _, _, err := ParseAccept(b[:i]); err == nil {
			t.Errorf("%d bytes were taken for an accept", i)
		}
	}
	r := Reject{Status: NoResources}
	b = r.Append(nil)
	if got, n, err := ParseReject(b); err != nil || n != len(b) || n != r.Len() || got != r || !bytes.Equal(b, []byte{0, 0, 6, 0}) {
		t.Errorf("reject %x: %+v, %d, %v", b, got, n, err)
	}
	for i := range b {
		if _, _, err := ParseReject(b[:i]); err == nil {
			t.Errorf("%d bytes were taken for a reject", i)
		}
	}
}

func TestJudge(t *testing.T) {
	good := Request{Queue: 1, Receives: 128, Entries: 128}
	admin := Request{Receives: 32, Entries: 32}
	with := func(r Request, change func(*Request)) []byte {
		change(&r)
		return r.Append(nil)
	}
	limits, offer := Limits{Queues: 8, Entries: 256}, Offer{Reads: 16}
	for _, c := range []struct {
		name    string
		private []byte
		offer   Offer
		want    Status
	}{
		{"I/O queue of Linux", linuxRequest, offer, OK},
		{"Admin queue", admin.Append(nil), offer, OK},
		{"Admin queue for any controller", with(admin, func(r *Request) { r.Controller = nvme.DynamicControllerID }), offer, OK},
		{"nothing", nil, offer, InvalidLength},
		{"a byte too short", good.Append(nil)[:RequestSize-1], offer, InvalidLength},
		{"format 1", with(good, func(r *Request) { r.Format = 1 }), offer, InvalidFormat},
		{"highest queue", with(good, func(r *Request) { r.Queue = 8 }), offer, OK},
		{"queue above", with(good, func(r *Request) { r.Queue = 9 }), offer, InvalidQueue},
		{"one entry", with(good, func(r *Request) { r.Entries = 1 }), offer, InvalidEntries},
		{"most entries", with(good, func(r *Request) { r.Entries, r.Receives = 256, 256 }), offer, OK},
		{"entries above", with(good, func(r *Request) { r.Entries, r.Receives = 257, 257 }), offer, InvalidEntries},
		{"Admin entries above", with(admin, func(r *Request) { r.Entries, r.Receives = 33, 33 }), offer, InvalidEntries},
		{"no receives", with(good, func(r *Request) { r.Receives = 0 }), offer, InvalidReceives},
		{"fewest receives", with(good, func(r *Request) { r.Receives = 127 }), offer, OK},
		{"too few receives", with(good, func(r *Request) { r.Receives = 126 }), offer, InvalidReceives},
		{"no reads served", good.Append(nil), Offer{}, InvalidIRD},
		{"more reads than the field holds", good.Append(nil), Offer{Reads: 1, Served: 256}, InvalidORD},
		{"controller", with(good, func(r *Request) { r.Controller = nvme.MaxControllerID }), offer, OK},
		{"reserved controller", with(good, func(r *Request) { r.Controller = nvme.MaxControllerID + 1 }), offer, InvalidController},
		{"any controller for an I/O queue", with(good, func(r *Request) { r.Controller = nvme.DynamicControllerID }), offer, InvalidController},
		{"reserved controller for the Admin queue", with(admin, func(r *Request) { r.Controller = nvme.MaxControllerID + 1 }), offer, InvalidController},
	} {
		if _, got := Judge(c.private, c.offer, limits); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func FuzzRequest(f *testing.F) {
	f.Add(linuxRequest)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, n, err := ParseRequest(b)
		if err != nil {
			return
		}
		again, _, err := ParseRequest(r.Append(nil))
		if err != nil || again != r || n != RequestSize {
			t.Fatalf("%+v became %+v, %v", r, again, err)
		}
		Judge(b, Offer{Reads: 1}, Limits{Queues: 1, Entries: 32})
	})
}
