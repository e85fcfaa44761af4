// Package capture is the text in which a testdata folder keeps what real peers sent: each Record
// has a name, the fields that were found in it, and its bytes as a hex dump. People read it,
// tests parse the bytes and compare. The package owns the text; it knows no protocol.
//
//	# Who was captured, and how to do it again.
//
//	host ICReq
//	  Align 4
//	  MaxR2T 1
//	00000000  00 00 80 00 80 00 00 00  00 00 00 00 00 00 00 00  |................|
//	00000010  00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00  |................|
//	*
//	00000080
//
// The dump is that of "hexdump -C": a star stands for lines like the one before it.
package capture

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// File is a capture.
type File struct {
	About   []string // lines of comment at the top
	Records []Record
}

// Record is one thing that was on the wire.
type Record struct {
	Name   string
	Fields []string // see Fields
	Bytes  []byte
}

const rowBytes = 16

// maxBytes bounds a record, so that a wrong offset in a file is an error and not a huge slice.
const maxBytes = 16 << 20

// Parse reads the text of a capture.
func Parse(text []byte) (File, error) {
	var f File
	var r *Record // the record at hand
	star := false
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		line = strings.TrimRight(line, "\n")
		offset, isDump := dumpOffset(line)
		switch {
		case star && !isDump:
			return File{}, fmt.Errorf("line %d: no offset after a star", n)
		case line == "":
			r = nil
		case r == nil && strings.HasPrefix(line, "#"):
			f.About = append(f.About, strings.TrimPrefix(strings.TrimPrefix(line, "#"), " "))
		case r == nil && !isDump:
			f.Records = append(f.Records, Record{Name: line})
			r = &f.Records[len(f.Records)-1]
		case r != nil && strings.HasPrefix(line, "  ") && len(r.Bytes) == 0:
			r.Fields = append(r.Fields, line[2:])
		case r != nil && line == "*" && len(r.Bytes) >= rowBytes:
			star = true
		case r != nil && isDump:
			if err := r.row(line, offset, star); err != nil {
				return File{}, fmt.Errorf("line %d: %w", n, err)
			}
			star = false
		default:
			return File{}, fmt.Errorf("line %d: %q is neither a name, a field nor a dump", n, line)
		}
	}
	if star {
		return File{}, fmt.Errorf("line %d: no offset after a star", n)
	}
	return f, nil
}

// dumpOffset reads the offset with which a line of a dump begins.
func dumpOffset(line string) (uint64, bool) {
	word, _, _ := strings.Cut(line, " ")
	if len(word) != 8 {
		return 0, false
	}
	offset, err := strconv.ParseUint(word, 16, 32)
	return offset, err == nil
}

// row adds one line of the dump; star says that a star came before it.
func (r *Record) row(line string, offset uint64, star bool) error {
	if offset > maxBytes {
		return fmt.Errorf("offset %#x is above %d bytes", offset, maxBytes)
	}
	if star {
		last := r.Bytes[len(r.Bytes)-rowBytes:]
		for uint64(len(r.Bytes)) < offset {
			r.Bytes = append(r.Bytes, last...)
		}
	}
	if uint64(len(r.Bytes)) != offset {
		return fmt.Errorf("offset %#x after %#x bytes", offset, len(r.Bytes))
	}
	digits, _, _ := strings.Cut(line[8:], "|")
	b, err := hex.DecodeString(strings.ReplaceAll(digits, " ", ""))
	if err != nil {
		return err
	}
	if len(b) > rowBytes {
		return fmt.Errorf("%d bytes in one line", len(b))
	}
	r.Bytes = append(r.Bytes, b...)
	return nil
}

// Append appends the text.
func (f File) Append(b []byte) []byte {
	for _, line := range f.About {
		b = append(b, strings.TrimRight("# "+line, " ")+"\n"...)
	}
	for _, r := range f.Records {
		b = append(b, "\n"+r.Name+"\n"...)
		for _, field := range r.Fields {
			b = append(b, "  "+field+"\n"...)
		}
		b = appendDump(b, r.Bytes)
	}
	return b
}

func appendDump(b, data []byte) []byte {
	star := false
	for at := 0; at < len(data); at += rowBytes {
		row := data[at:min(at+rowBytes, len(data))]
		if at > 0 && bytes.Equal(row, data[at-rowBytes:at]) {
			if !star {
				b = append(b, "*\n"...)
			}
			star = true
			continue
		}
		star = false
		dump := hex.Dump(row)
		b = fmt.Appendf(b, "%08x%s", at, dump[8:])
	}
	return fmt.Appendf(b, "%08x\n", len(data))
}

// Fields describes a decoded value for Record.Fields: "Name value" for each field that is not
// zero, in the order of the structure, those of embedded and nested structures with their path.
func Fields(v any) []string {
	var lines []string
	describe(&lines, "", reflect.ValueOf(v))
	return lines
}

func describe(lines *[]string, path string, v reflect.Value) {
	if v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	text, plain := printed(v)
	switch {
	case v.IsZero():
	case plain:
		*lines = append(*lines, strings.TrimLeft(path+" "+text, " "))
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			field := v.Type().Field(i)
			if !field.IsExported() {
				continue
			}
			name := field.Name
			if field.Anonymous {
				name = ""
			}
			describe(lines, join(path, name), v.Field(i))
		}
	default: // an array or a slice of more than bytes
		for i := range v.Len() {
			describe(lines, fmt.Sprintf("%s[%d]", path, i), v.Index(i))
		}
	}
}

func join(path, name string) string {
	if path == "" || name == "" {
		return path + name
	}
	return path + "." + name
}

// printed is the text of a value that takes one line.
func printed(v reflect.Value) (text string, plain bool) {
	if s, ok := v.Interface().(fmt.Stringer); ok {
		return s.String(), true
	}
	switch v.Kind() {
	case reflect.String:
		return strconv.Quote(v.String()), true
	case reflect.Slice, reflect.Array:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return fmt.Sprintf("%x", v.Interface()), true
		}
		return "", false
	case reflect.Struct:
		return "", false
	}
	return fmt.Sprint(v.Interface()), true
}
