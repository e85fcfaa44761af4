package sdk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mooring-io/mooring/sdk/policy"
	"github.com/mooring-io/mooring/sdk/proto"
)

func TestErrorsKeepTheirIdentity(t *testing.T) {
	for _, want := range []error{
		ErrNotFound, ErrInvalid, ErrNotAllowed, ErrNotReady, ErrBusy, ErrUnsupported, ErrFenced, ErrGone,
		context.Canceled, context.DeadlineExceeded,
	} {
		sent := fmt.Errorf("open the door: %w", want)
		got := FromStatus(ToStatus(sent))
		if !errors.Is(got, want) || got.Error() != sent.Error() {
			t.Errorf("%v became %v", sent, got)
		}
		// And over a second hop.
		if again := FromStatus(ToStatus(fmt.Errorf("relay: %w", got))); !errors.Is(again, want) {
			t.Errorf("%v became %v on its second way", sent, again)
		}
	}
	plain := FromStatus(ToStatus(errors.New("no identity")))
	if plain.Error() != "no identity" || errors.Unwrap(plain) != nil || status.Code(plain) != codes.Unknown {
		t.Errorf("a plain error became %v", plain)
	}
	if ToStatus(nil) != nil || FromStatus(nil) != nil || FromStatus(io.EOF) != io.EOF {
		t.Error("nil and EOF must stay what they are")
	}
}

type testPolicy struct{ d Description }

func (p testPolicy) Describe() Description  { return p.d }
func (p testPolicy) Configure([]byte) error { return nil }
func (p testPolicy) Place(context.Context, *policy.Request) (*policy.Response, error) {
	return nil, ErrUnsupported
}

func TestDescriptionIsChecked(t *testing.T) {
	for _, c := range []struct {
		d    Description
		want string
	}{
		{Description{Name: "ok-1"}, ""},
		{Description{}, "name"},
		{Description{Name: "Upper"}, "name"},
		{Description{Name: strings.Repeat("x", maxName+1)}, "name"},
		{Description{Name: "x", Schema: []Attribute{{Name: "a"}}}, "type 0"},
		{Description{Name: "x", Schema: []Attribute{{Name: "a", Type: Duration, Default: 5}}}, "not of the attribute's type"},
		{Description{Name: "x", Schema: []Attribute{{Name: "a", Type: Number, Default: time.Second}}}, "not of the attribute's type"},
		{Description{Name: "x", Schema: []Attribute{{Name: "a", Type: String, Default: func() {}}}}, "default"},
	} {
		s, err := NewService(testPolicy{c.d}, Channel{})
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: %v, want %q", c.d, err, c.want)
		}
		if s != nil {
			if err := s.Close(t.Context()); err != nil {
				t.Error(err)
			}
		}
	}
	d, err := Description{Name: "x", Schema: []Attribute{{Name: "a", Type: Duration, Default: time.Second}}}.toProto(proto.Kind_KIND_POLICY)
	if err != nil || d.Schema[0].DefaultJson != "1000000000" {
		t.Errorf("default of one second: %v, %v", d, err)
	}
	if _, err := (Description{Name: "x"}).toProto(proto.Kind_KIND_DATA); err == nil {
		t.Error("a data plugin without a listen scheme is accepted")
	}
}

func TestAttributeErrors(t *testing.T) {
	a, b := &AttributeError{"a", "is wrong"}, &AttributeError{"b", "is wrong too"}
	got := attributeErrors(errors.Join(a, fmt.Errorf("wrapped: %w", b), errors.New("none")))
	if len(got) != 3 || got[0].Attribute != "a" || got[1].Attribute != "b" || got[2].Attribute != "" || got[2].Message != "none" {
		t.Errorf("%v", got)
	}
}
