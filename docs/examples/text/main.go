// Text serves volumes over a protocol that one can speak with nc.
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mooring-io/mooring/sdk"
	"github.com/mooring-io/mooring/sdk/block"
	"github.com/mooring-io/mooring/sdk/proto"
)

func main() { sdk.Serve(&plugin{}) }

// plugin is the whole plugin. Configure, Start, SetListeners and Stop never overlap,
// so only what connections share needs the mutex.
type plugin struct {
	idle atomic.Int64 // ns

	env       *sdk.Env
	cancel    context.CancelFunc
	listeners map[sdk.Listener]net.Listener
	work      sync.WaitGroup

	mu       sync.Mutex
	next     int                 // thread of the next connection
	sessions map[uint64]*session // by association
	conns    map[net.Conn]bool
}

func (p *plugin) Describe() sdk.Description {
	return sdk.Description{
		Name:          "text",
		Version:       "0.1.0",
		ListenSchemes: []string{"text-tcp"},
		Schema: []sdk.Attribute{{
			Name: "idle_timeout", Type: sdk.Duration, Default: 5 * time.Minute,
			Help: "a host that is silent for this long is disconnected.",
		}},
	}
}

func (p *plugin) Configure(config []byte) error {
	var c struct {
		IdleTimeout time.Duration `json:"idle_timeout"`
	}
	if err := json.Unmarshal(config, &c); err != nil {
		return err
	}
	if c.IdleTimeout < time.Second {
		return &sdk.AttributeError{Attribute: "idle_timeout", Message: fmt.Sprintf("%v is too short; want at least 1s", c.IdleTimeout)}
	}
	p.idle.Store(int64(c.IdleTimeout))
	return nil
}

func (p *plugin) Start(ctx context.Context, env *sdk.Env) error {
	p.env = env
	p.listeners = map[sdk.Listener]net.Listener{}
	p.sessions = map[uint64]*session{}
	p.conns = map[net.Conn]bool{}
	watching, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	updates, err := env.Core.Watch(watching, &proto.WatchRequest{})
	if err != nil {
		cancel()
		return err
	}
	p.work.Go(func() { p.watch(updates) })
	return nil
}

// watch follows what the core decides about associations that exist already.
func (p *plugin) watch(updates proto.Core_WatchClient) {
	for {
		u, err := updates.Recv()
		if err != nil {
			return // Stop, or the core is gone: then the process ends
		}
		switch u := u.Update.(type) {
		case *proto.Update_Grants:
			if s := p.session(u.Grants.Association); s != nil {
				s.grants.Store(u.Grants)
			}
		case *proto.Update_End:
			if s := p.session(u.End.Association); s != nil {
				s.conn.Close()
			}
		}
	}
}

func (p *plugin) session(association uint64) *session {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sessions[association]
}

func (p *plugin) SetListeners(_ context.Context, want []sdk.Listener) []sdk.ListenerState {
	keep := map[sdk.Listener]bool{}
	var states []sdk.ListenerState
	for _, w := range want {
		keep[w] = true
		state := sdk.ListenerState{AccessPointID: w.AccessPointID, URL: w.URL}
		if p.listeners[w] == nil {
			state.Err = p.listen(w)
		}
		if l := p.listeners[w]; l != nil {
			state.URL = "text-tcp://" + l.Addr().String()
		}
		states = append(states, state)
	}
	for w, l := range p.listeners {
		if !keep[w] {
			l.Close()
			delete(p.listeners, w)
		}
	}
	return states
}

func (p *plugin) listen(w sdk.Listener) error {
	address, ok := strings.CutPrefix(w.URL, "text-tcp://")
	if !ok {
		return fmt.Errorf("%q does not begin with text-tcp://: %w", w.URL, sdk.ErrInvalid)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	p.listeners[w] = l
	p.work.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // closed
			}
			p.work.Go(func() { p.serve(conn, w.AccessPointID) })
		}
	})
	return nil
}

func (p *plugin) Stop(ctx context.Context) error {
	p.SetListeners(ctx, nil)
	p.mu.Lock()
	for c := range p.conns {
		c.Close()
	}
	p.conns = nil // whoever was just accepted is turned away
	p.mu.Unlock()
	p.cancel()
	p.work.Wait()
	return nil
}

// session is one host's association, on one connection.
type session struct {
	conn   net.Conn
	thread *block.Thread
	nsid   uint32
	grants atomic.Pointer[proto.Grants]
}

// serve speaks the protocol. Each line is a command, answered by OK or ERR:
//
//	HELLO subsystem nsid host    comes first
//	READ offset length           answered by OK and the data
//	WRITE offset length          followed by the data
//	FLUSH
func (p *plugin) serve(conn net.Conn, accessPoint string) {
	defer conn.Close()
	thread, ok := p.admit(conn)
	if !ok {
		return
	}
	defer p.forget(conn)
	s := &session{conn: conn, thread: thread}
	in := bufio.NewReader(conn)
	association, err := p.hello(s, in, accessPoint)
	if err != nil {
		fmt.Fprintf(conn, "ERR %v\n", err)
		return
	}
	defer p.dissociate(association)
	fmt.Fprintln(conn, "OK")
	for {
		if err := s.command(in, time.Duration(p.idle.Load())); err != nil {
			return
		}
	}
}

func (p *plugin) admit(conn net.Conn) (*block.Thread, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conns == nil {
		return nil, false
	}
	p.conns[conn] = true
	p.next++
	return p.env.Threads[p.next%len(p.env.Threads)], true
}

func (p *plugin) forget(conn net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, conn)
}

// hello begins an association: the core decides what this host may use.
func (p *plugin) hello(s *session, in *bufio.Reader, accessPoint string) (uint64, error) {
	s.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	line, err := in.ReadSlice('\n') // fails for lines beyond the reader's 4 KiB
	if err != nil {
		return 0, err
	}
	var subsystem, host string
	if _, err := fmt.Sscanf(string(line), "HELLO %s %d %s\n", &subsystem, &s.nsid, &host); err != nil {
		return 0, errors.New("want HELLO subsystem nsid host")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	id := sha256.Sum256([]byte(host)) // an NVMe host would say its own
	resp, err := p.env.Core.Associate(ctx, &proto.AssociateRequest{
		Host:      &proto.HostIdentity{Protocol: proto.Protocol_PROTOCOL_NVME, Name: host, HostId: id[:16]},
		Subsystem: subsystem, AccessPointId: accessPoint,
		Peer: s.conn.RemoteAddr().String(), ControllerId: 0xFFFF,
	})
	if err != nil {
		return 0, err
	}
	if resp.Result != proto.AssociateResult_ASSOCIATE_OK {
		return 0, errors.New(resp.Message)
	}
	s.grants.Store(resp.Grants)
	p.mu.Lock()
	p.sessions[resp.Association] = s
	p.mu.Unlock()
	return resp.Association, nil
}

// dissociate ends the association. Nothing of it is in flight any more: serve waits
// for each command.
func (p *plugin) dissociate(association uint64) {
	p.mu.Lock()
	delete(p.sessions, association)
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, err := p.env.Core.Dissociate(ctx, &proto.DissociateRequest{Association: association, Clean: true}); err != nil {
		p.env.Logger.Debug("dissociate", "association", association, "error", err)
	}
}

// command serves one line. An error ends the connection.
func (s *session) command(in *bufio.Reader, idle time.Duration) error {
	s.conn.SetReadDeadline(time.Now().Add(idle))
	line, err := in.ReadSlice('\n')
	if err != nil {
		return err
	}
	var word string
	var offset, length uint64
	fmt.Sscan(string(line), &word, &offset, &length) // what is missing stays 0
	op, known := map[string]block.Op{"READ": block.OpRead, "WRITE": block.OpWrite, "FLUSH": block.OpFlush}[word]
	if !known || (op != block.OpFlush) != (length > 0) || length > block.DefaultMaxTransfer {
		fmt.Fprintln(s.conn, "ERR want READ offset length, WRITE offset length or FLUSH; length up to 1 MiB")
		return sdk.ErrInvalid // what follows may be data
	}
	var data []byte
	if op == block.OpWrite {
		data = make([]byte, length)
		if _, err := io.ReadFull(in, data); err != nil {
			return err
		}
	}
	data, err = s.do(op, offset, length, data)
	if err != nil {
		_, err = fmt.Fprintf(s.conn, "ERR %v\n", err)
		return err
	}
	_, err = s.conn.Write(append([]byte("OK\n"), data...))
	return err
}

// do has the core carry out one command and waits for it. Buffers and requests belong
// to the I/O thread, so that is where they are used; Post is the way there.
func (s *session) do(op block.Op, offset, length uint64, data []byte) ([]byte, error) {
	volume, err := s.volume()
	if err != nil {
		return nil, err
	}
	type outcome struct {
		data   []byte
		status block.Status
	}
	done := make(chan outcome, 1)
	submit := func(buf block.Buffer) {
		copy(buf.Bytes(), data)
		s.thread.Submit(&block.Request{
			Op: op, Volume: volume, Offset: offset, Length: length, Buf: buf,
			Done: func(r *block.Request) {
				var read []byte
				if op == block.OpRead {
					read = bytes.Clone(buf.Bytes())
				}
				if length > 0 {
					s.thread.Pool().Free(buf)
				}
				done <- outcome{read, r.Status}
			},
		})
	}
	s.thread.Post(func() {
		if length == 0 {
			submit(block.Buffer{})
			return
		}
		s.thread.Pool().Wait(int(length), submit)
	})
	select {
	case o := <-done:
		if o.status != block.StatusOK {
			return nil, errors.New(o.status.String())
		}
		return o.data, nil
	case <-s.thread.Done():
		return nil, sdk.ErrGone
	}
}

// volume is the handle that the core has granted for the namespace.
func (s *session) volume() (block.Handle, error) {
	for _, g := range s.grants.Load().GetGrants() {
		if g.Nsid == s.nsid {
			return block.Handle{Index: g.Handle, Generation: g.HandleGeneration}, nil
		}
	}
	return block.Handle{}, fmt.Errorf("namespace %d: %w", s.nsid, sdk.ErrNotFound)
}
