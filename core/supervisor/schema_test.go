package supervisor

import (
	"strings"
	"testing"

	"github.com/mooring-io/mooring/sdk/proto"
)

var testSchema = []*proto.Attribute{
	{Name: "text", Type: proto.AttributeType_ATTRIBUTE_TYPE_STRING, DefaultJson: `"none"`},
	{Name: "count", Type: proto.AttributeType_ATTRIBUTE_TYPE_NUMBER},
	{Name: "on", Type: proto.AttributeType_ATTRIBUTE_TYPE_BOOL},
	{Name: "names", Type: proto.AttributeType_ATTRIBUTE_TYPE_STRING_LIST},
	{Name: "size", Type: proto.AttributeType_ATTRIBUTE_TYPE_SIZE, Help: "of the thing."},
	{Name: "wait", Type: proto.AttributeType_ATTRIBUTE_TYPE_DURATION},
}

func TestDecodeConfig(t *testing.T) {
	for _, c := range []struct{ src, want string }{
		{``, `{"text":"none"}`},
		{`text = "a"`, `{"text":"a"}`},
		{`count = 3`, `{"count":3,"text":"none"}`},
		{`count = 1.5`, `{"count":1.5,"text":"none"}`},
		{`count = 18446744073709551615`, `{"count":18446744073709551615,"text":"none"}`},
		{`on = true`, `{"on":true,"text":"none"}`},
		{`names = ["a", "b"]`, `{"names":["a","b"],"text":"none"}`},
		{`names = []`, `{"names":[],"text":"none"}`},
		{`size = "8KiB"`, `{"size":8192,"text":"none"}`},
		{`size = "1.5 MiB"`, `{"size":1572864,"text":"none"}`},
		{`size = "1MB"`, `{"size":1000000,"text":"none"}`},
		{`size = 512`, `{"size":512,"text":"none"}`},
		{`size = "512"`, `{"size":512,"text":"none"}`},
		{`wait = "1m30s"`, `{"text":"none","wait":90000000000}`},
		{"# nothing\nsize = 2 * 1024\n", `{"size":2048,"text":"none"}`},
	} {
		got, diags := DecodeConfig(config(t, c.src), testSchema)
		if diags.HasErrors() || string(got) != c.want {
			t.Errorf("%s: %s, %v; want %s", c.src, got, diags, c.want)
		}
	}
}

func TestDecodeConfigDiagnostics(t *testing.T) {
	for _, c := range []struct {
		src, where, want string
	}{
		{"on = true\ntxet = 1", "test.hcl:2,1-5", `Did you mean "text"`},
		{`count = "many"`, "test.hcl:1,9-15", "a number"},
		{`on = 3`, "test.hcl:1,6-7", "true or false"},
		{`names = "a"`, "test.hcl:1,9-12", `like ["a", "b"]`},
		{`names = [null]`, "test.hcl:1,9-15", "null"},
		{`size = "8KB of"`, "test.hcl:1,8-16", `like "8KiB" or "1MiB", or a number of bytes. Of the thing.`},
		{`size = "0.3KiB"`, "test.hcl:1,8-16", "whole, positive number"},
		{`size = -1`, "test.hcl:1,8-10", "whole, positive number"},
		{`size = "1e300PiB"`, "test.hcl:1,8-18", "whole, positive number"},
		{`wait = 5`, "test.hcl:1,8-9", "no unit"},
		{`wait = "-5s"`, "test.hcl:1,8-13", "negative"},
		{`wait = "soon"`, "test.hcl:1,8-14", `like "5s"`},
		{`text = null`, "test.hcl:1,8-12", "null"},
		{`text = nobody`, "test.hcl:1,8-14", "Variables"},
		{`block {}`, "test.hcl:1,1-6", ""},
	} {
		_, diags := DecodeConfig(config(t, c.src), testSchema)
		if len(diags) != 1 || diags[0].Subject.String() != c.where || !strings.Contains(diags[0].Summary+diags[0].Detail, c.want) {
			t.Errorf("%s: %v\n%+v, want %s, %s", c.src, diags, diags, c.where, c.want)
		}
	}
	required := []*proto.Attribute{{Name: "key", Required: true, Type: proto.AttributeType_ATTRIBUTE_TYPE_STRING, Help: "the key."}}
	if _, diags := DecodeConfig(config(t, ``), required); len(diags) != 1 || !strings.Contains(diags[0].Detail, `"key" is required: a string in quotes. The key.`) {
		t.Errorf("required attribute: %v", diags)
	}
	if _, diags := DecodeConfig(nil, required); !diags.HasErrors() {
		t.Error("a required attribute is missing in no block at all")
	}
}

func FuzzParseSize(f *testing.F) {
	for _, s := range []string{"8KiB", "1.5MiB", "", "-1", "1e999999PiB", "0x1p3", "Inf", "NaN"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := parseSize(s)
		if err == nil && n.(int64) < 0 {
			t.Errorf("%q is %d bytes", s, n)
		}
	})
}
