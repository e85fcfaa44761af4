// Command wiretap passes TCP connections on and keeps what went through them.
//
//	wiretap -listen ADDRESS -target ADDRESS -out PREFIX
//
// Connection n leaves the file PREFIXn.trace: chunks in the order in which they arrived, each one byte that says who
// sent it ('h' who connected, 'c' the target), four bytes of length, little-endian, and that many bytes. It prints
// "wiretap: ready" when it listens, and ends with SIGTERM.
//
// It owns the file's format. It does not know what is inside.
package main

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

func main() {
	listen := flag.String("listen", "", "address to listen on")
	target := flag.String("target", "", "address to pass connections on to")
	out := flag.String("out", "", "prefix of the files to write")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, *listen, *target, *out); err != nil {
		fmt.Fprintln(os.Stderr, "wiretap:", err)
		os.Exit(1)
	}
}

// run returns when ctx has ended and every connection is closed.
func run(ctx context.Context, listen, target, out string) error {
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	unhook := context.AfterFunc(ctx, func() { listener.Close() })
	defer unhook()
	fmt.Println("wiretap: ready")
	var taps sync.WaitGroup
	defer taps.Wait()
	for n := 1; ; n++ {
		host, err := listener.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		taps.Go(func() {
			if err := tap(ctx, host, target, fmt.Sprintf("%s%d.trace", out, n)); err != nil {
				fmt.Fprintf(os.Stderr, "wiretap: connection %d: %v\n", n, err)
			}
		})
	}
}

// tap owns the host's connection and passes it on until both sides are done.
func tap(ctx context.Context, host net.Conn, target, path string) error {
	defer host.Close()
	controller, err := net.Dial("tcp", target)
	if err != nil {
		return err
	}
	defer controller.Close()
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	unhook := context.AfterFunc(ctx, func() { host.Close(); controller.Close() })
	defer unhook()

	t := &trace{w: f}
	var copies sync.WaitGroup
	copies.Go(func() { pass(controller, host, t.from('h')) })
	copies.Go(func() { pass(host, controller, t.from('c')) })
	copies.Wait()
	return t.err
}

// pass copies until src ends, and ends dst then: what is kept is kept before it is passed on.
func pass(dst, src net.Conn, keep io.Writer) {
	_, _ = io.Copy(dst, io.TeeReader(src, keep)) // an end is an end, whatever its reason
	dst.Close()
	src.Close()
}

// trace is the file of a connection, shared by its two directions.
type trace struct {
	mu  sync.Mutex
	w   io.Writer
	err error
}

type direction struct {
	t  *trace
	by byte
}

func (t *trace) from(by byte) io.Writer { return direction{t, by} }

// Write keeps one chunk.
func (d direction) Write(p []byte) (int, error) {
	d.t.mu.Lock()
	defer d.t.mu.Unlock()
	chunk := append(binary.LittleEndian.AppendUint32([]byte{d.by}, uint32(len(p))), p...)
	if _, err := d.t.w.Write(chunk); err != nil {
		d.t.err = err
		return 0, err
	}
	return len(p), nil
}
