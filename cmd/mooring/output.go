package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"syscall"
	"text/tabwriter"

	"github.com/mooring-io/mooring/core/config"
)

// print writes v as JSON, or rows as a table with a header.
func (g *globals) print(w io.Writer, v any, header string, rows func(row func(...any))) error {
	if g.output == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(v)
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, strings.ReplaceAll(header, " ", "\t"))
	rows(func(cells ...any) {
		for i, c := range cells {
			if i > 0 {
				fmt.Fprint(t, "\t")
			}
			if s := fmt.Sprint(c); s != "" {
				fmt.Fprint(t, s)
			} else {
				fmt.Fprint(t, "-")
			}
		}
		fmt.Fprintln(t)
	})
	return t.Flush()
}

// done says, for people, what a command did; for -o json it prints v.
func (g *globals) done(w io.Writer, v any, format string, args ...any) error {
	if g.output == "json" {
		return g.print(w, v, "", nil)
	}
	_, err := fmt.Fprintf(w, format+"\n", args...)
	return err
}

// made says, for people, that a command made an object, or that an equal one was there before;
// for -o json it prints v.
func (g *globals) made(w io.Writer, existed bool, v any, object, format string, args ...any) error {
	if existed {
		return g.done(w, v, "%s exists already, and is as it was", object)
	}
	return g.done(w, v, object+" "+format, args...)
}

// already follows what a command would have done, if it was so before.
func already(existed bool) string {
	if existed {
		return " already"
	}
	return ""
}

func size(n int64) string { return config.FormatSize(n) }

func list(s []string) string { return strings.Join(s, ", ") }

// fileError makes it a usage error that a file or folder that was named is not there, or not to be used so.
func fileError(err error) error {
	for _, fault := range []error{fs.ErrNotExist, fs.ErrPermission, syscall.ENOTDIR, syscall.EISDIR} {
		if errors.Is(err, fault) {
			return &usageError{err}
		}
	}
	return err
}

// sizeArg reads a size from the command line.
func sizeArg(what, s string) (int64, error) {
	n, err := config.ParseSize(s)
	if err != nil {
		return 0, &usageError{fmt.Errorf("%s: %w", what, err)}
	}
	return n, nil
}
