package supervisor

import (
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"

	"github.com/mooring-io/mooring/sdk"
	"github.com/mooring-io/mooring/sdk/proto"
)

// DecodeConfig decodes the body of a plugin's config block against the attributes
// that the plugin declared, and returns the JSON object for its Configure: defaults
// filled in, sizes in bytes, durations in nanoseconds. A nil body is an empty one.
// The JSON is of no use if the diagnostics have errors.
func DecodeConfig(body hcl.Body, attrs []*proto.Attribute) ([]byte, hcl.Diagnostics) {
	if body == nil {
		body = hcl.EmptyBody()
	}
	content, diags := body.Content(bodySchema(attrs))
	values := map[string]any{}
	for _, a := range attrs {
		given := content.Attributes[a.Name]
		if given == nil {
			diags = append(diags, fillDefault(values, a, body)...)
			continue
		}
		v, bad := decodeAttribute(a, given)
		diags = append(diags, bad...)
		if v != nil {
			values[a.Name] = v
		}
	}
	out, err := json.Marshal(values)
	if err != nil {
		panic(fmt.Sprintf("supervisor: a decoded config is no JSON: %v", err))
	}
	return out, diags
}

// bodySchema requires nothing: a missing attribute is reported by fillDefault, which
// can say what it is for.
func bodySchema(attrs []*proto.Attribute) *hcl.BodySchema {
	s := &hcl.BodySchema{}
	for _, a := range attrs {
		s.Attributes = append(s.Attributes, hcl.AttributeSchema{Name: a.Name})
	}
	return s
}

func fillDefault(values map[string]any, a *proto.Attribute, body hcl.Body) hcl.Diagnostics {
	if a.Required {
		r := body.MissingItemRange()
		return hcl.Diagnostics{{
			Severity: hcl.DiagError, Summary: "Missing required argument",
			Detail:  sentence(fmt.Sprintf("The argument %q is required: %s", a.Name, expected[a.Type]), a.Help),
			Subject: &r,
		}}
	}
	if a.DefaultJson != "" {
		values[a.Name] = json.RawMessage(a.DefaultJson)
	}
	return nil
}

// expected says what may be written, by type.
var expected = map[proto.AttributeType]string{
	proto.AttributeType_ATTRIBUTE_TYPE_STRING:      `a string in quotes`,
	proto.AttributeType_ATTRIBUTE_TYPE_NUMBER:      `a number`,
	proto.AttributeType_ATTRIBUTE_TYPE_BOOL:        `true or false`,
	proto.AttributeType_ATTRIBUTE_TYPE_STRING_LIST: `a list of strings, like ["a", "b"]`,
	proto.AttributeType_ATTRIBUTE_TYPE_SIZE:        `a size, like "8KiB" or "1MiB", or a number of bytes`,
	proto.AttributeType_ATTRIBUTE_TYPE_DURATION:    `a duration, like "5s" or "500ms"`,
}

func decodeAttribute(a *proto.Attribute, given *hcl.Attribute) (any, hcl.Diagnostics) {
	v, diags := given.Expr.Value(nil)
	if diags.HasErrors() {
		return nil, diags
	}
	out, err := decodeValue(a.Type, v)
	if err != nil {
		r := given.Expr.Range()
		return nil, append(diags, &hcl.Diagnostic{
			Severity: hcl.DiagError, Summary: "Incorrect value of " + a.Name,
			Detail:  sentence(fmt.Sprintf("%s; want %s", err, expected[a.Type]), a.Help),
			Subject: &r, Context: &given.Range, Expression: given.Expr,
		})
	}
	return out, diags
}

func decodeValue(t proto.AttributeType, v cty.Value) (any, error) {
	if v.IsNull() || !v.IsWhollyKnown() {
		return nil, fmt.Errorf("the value is null")
	}
	switch t {
	case proto.AttributeType_ATTRIBUTE_TYPE_STRING:
		s, err := convert.Convert(v, cty.String)
		if err != nil {
			return nil, err
		}
		return s.AsString(), nil
	case proto.AttributeType_ATTRIBUTE_TYPE_BOOL:
		b, err := convert.Convert(v, cty.Bool)
		if err != nil {
			return nil, err
		}
		return b.True(), nil
	case proto.AttributeType_ATTRIBUTE_TYPE_NUMBER:
		n, err := convert.Convert(v, cty.Number)
		if err != nil {
			return nil, err
		}
		f := n.AsBigFloat()
		if f.IsInt() && f.MantExp(nil) <= 64 { // as a plugin's int64 or uint64 can read it
			return json.Number(f.Text('f', 0)), nil
		}
		return json.Number(f.Text('g', -1)), nil
	case proto.AttributeType_ATTRIBUTE_TYPE_STRING_LIST:
		return decodeList(v)
	case proto.AttributeType_ATTRIBUTE_TYPE_SIZE:
		return decodeSize(v)
	case proto.AttributeType_ATTRIBUTE_TYPE_DURATION:
		return decodeDuration(v)
	default:
		return nil, fmt.Errorf("the plugin declared the unknown type %d", t)
	}
}

func decodeList(v cty.Value) (any, error) {
	l, err := convert.Convert(v, cty.List(cty.String))
	if err != nil {
		return nil, err
	}
	out := []string{}
	for _, s := range l.AsValueSlice() {
		if s.IsNull() {
			return nil, fmt.Errorf("an element is null")
		}
		out = append(out, s.AsString())
	}
	return out, nil
}

func decodeDuration(v cty.Value) (any, error) {
	if v.Type() != cty.String {
		return nil, fmt.Errorf("a %s has no unit of time", v.Type().FriendlyName())
	}
	d, err := time.ParseDuration(v.AsString())
	if err != nil {
		return nil, fmt.Errorf("%q is not a duration", v.AsString())
	}
	if d < 0 {
		return nil, fmt.Errorf("%q is negative", v.AsString())
	}
	return d.Nanoseconds(), nil
}

var sizeUnits = []struct {
	suffix string
	bytes  int64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}, {"PiB", 1 << 50},
	{"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"PB", 1e15}, {"B", 1},
}

// decodeSize returns bytes.
func decodeSize(v cty.Value) (any, error) {
	if v.Type() == cty.String {
		return parseSize(v.AsString())
	}
	n, err := convert.Convert(v, cty.Number)
	if err != nil {
		return nil, fmt.Errorf("a %s is not a size", v.Type().FriendlyName())
	}
	return wholeBytes(n.AsBigFloat(), n.AsBigFloat().String())
}

func parseSize(s string) (any, error) {
	number, unit := strings.TrimSpace(s), int64(1)
	for _, u := range sizeUnits {
		if rest, ok := strings.CutSuffix(number, u.suffix); ok {
			number, unit = strings.TrimSpace(rest), u.bytes
			break
		}
	}
	f, _, err := big.ParseFloat(number, 10, 128, big.ToNearestEven)
	if err != nil || f.IsInf() {
		return nil, fmt.Errorf("%q is not a size", s)
	}
	return wholeBytes(f.Mul(f, new(big.Float).SetInt64(unit)), s)
}

func wholeBytes(f *big.Float, written string) (any, error) {
	n, exact := f.Int64()
	if exact != big.Exact || n < 0 {
		return nil, fmt.Errorf("%q is not a whole, positive number of bytes", written)
	}
	return n, nil
}

// sentence joins what is wrong with what the argument is for.
func sentence(what, help string) string {
	if help == "" {
		return what + "."
	}
	return what + ". " + strings.ToUpper(help[:1]) + help[1:]
}

// configDiagnostics finds the places of the errors that a plugin's Configure
// returned.
func configDiagnostics(name string, body hcl.Body, attrs []*proto.Attribute, errs []*proto.AttributeError) hcl.Diagnostics {
	if body == nil {
		body = hcl.EmptyBody()
	}
	content, _ := body.Content(bodySchema(attrs))
	var diags hcl.Diagnostics
	for _, e := range errs {
		d := &hcl.Diagnostic{Severity: hcl.DiagError, Summary: "Plugin " + name + " refuses its configuration", Detail: e.Message}
		missing := body.MissingItemRange()
		d.Subject = &missing
		if given := content.Attributes[e.Attribute]; given != nil {
			r := given.Expr.Range()
			d.Subject, d.Context, d.Expression = &r, &given.Range, given.Expr
			d.Summary = "Plugin " + name + " refuses the value of " + e.Attribute
		} else if e.Attribute != "" {
			d.Detail = e.Attribute + ": " + e.Message
		}
		diags = append(diags, d)
	}
	return diags
}

// ConfigError is a config block that cannot be applied. Diagnostics name file and line.
type ConfigError struct {
	Plugin      string
	Diagnostics hcl.Diagnostics
}

func (e *ConfigError) Error() string {
	return fmt.Sprintf("configuration of plugin %s: %v", e.Plugin, e.Diagnostics)
}

// Unwrap says that it is the file that is wrong.
func (e *ConfigError) Unwrap() error { return sdk.ErrInvalid }
