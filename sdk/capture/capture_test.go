package capture

import (
	"bytes"
	"reflect"
	"slices"
	"strings"
	"testing"
)

const example = `# A host and a target.
# How to do it again

host ICReq
  Align 4
  MaxR2T 1
00000000  00 00 80 00 80 00 00 00  00 00 00 03 00 00 00 00  |................|
00000010  00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00  |................|
*
00000080

controller R2T, io write
00000000  09 00 18 00 18 00 00 00  01 00 02 00 00 00 00 00  |................|
00000010  00 02 00 00 00 00 00 41                           |.......A|
00000018
`

func TestParse(t *testing.T) {
	f, err := Parse([]byte(example))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(f.About, []string{"A host and a target.", "How to do it again"}) || len(f.Records) != 2 {
		t.Fatalf("%+v", f)
	}
	req, r2t := f.Records[0], f.Records[1]
	if req.Name != "host ICReq" || !slices.Equal(req.Fields, []string{"Align 4", "MaxR2T 1"}) || len(req.Bytes) != 128 || req.Bytes[11] != 3 {
		t.Errorf("%+v", req)
	}
	if r2t.Name != "controller R2T, io write" || len(r2t.Fields) != 0 || len(r2t.Bytes) != 24 || r2t.Bytes[23] != 'A' {
		t.Errorf("%+v", r2t)
	}
	if again := string(f.Append(nil)); again != example {
		t.Errorf("written again:\n%s", again)
	}
}

func TestParseRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"a gap":              "x\n00000000  00\n00000010  00\n",
		"a wrong end":        "x\n00000000  00 01\n00000003\n",
		"half a byte":        "x\n00000000  0\n",
		"too much in a line": "x\n00000000  00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f 10\n",
		"a star at first":    "x\n*\n00000010\n",
		"a star at the end":  "x\n00000000  00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f\n*\n\ny\n",
		"a huge offset":      "x\n00000000  00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f\n*\nfffffff0\n",
		"fields after bytes": "x\n00000000  00\n  Align 4\n",
		"bytes of nothing":   "00000000  00\n",
	} {
		if f, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), "line ") {
			t.Errorf("%s: %+v, %v", name, f, err)
		}
	}
}

func TestFields(t *testing.T) {
	type inner struct{ Low, High uint16 }
	got := Fields(struct {
		inner
		Name  string
		Pair  inner
		ID    [4]byte
		List  []inner
		Flag  bool
		Zero  int
		Pairs *inner
		small int
	}{inner{1, 0}, "a b", inner{0, 2}, [4]byte{0xca, 0xfe}, []inner{{}, {3, 4}}, true, 0, &inner{5, 0}, 6})
	want := []string{`Name "a b"`, "Pair.High 2", "ID cafe0000", "List[1].Low 3", "List[1].High 4", "Flag true", "Pairs.Low 5"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%q\nwant %q", got, want)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(example))
	f.Fuzz(func(t *testing.T, text []byte) {
		first, err := Parse(text)
		if err != nil {
			return
		}
		b := first.Append(nil)
		second, err := Parse(b)
		if err != nil {
			t.Fatalf("%v\n%s", err, b)
		}
		if again := second.Append(nil); !bytes.Equal(b, again) {
			t.Fatalf("not stable\n%s\n%s", b, again)
		}
	})
}
