package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"syscall"
)

// Error is a refusal by the agent, as a Client returns it.
type Error struct{ Problem }

func (e *Error) Error() string { return e.Problem.Error }

// UnreachableError says that there is no agent to speak to, and what to do.
type UnreachableError struct{ text string }

func (e *UnreachableError) Error() string { return e.text }

// Client speaks to an agent over its unix socket.
type Client struct {
	socket string
	http   http.Client
}

// NewClient returns a client for the agent at socket. It connects when it is used.
func NewClient(socket string) *Client {
	c := &Client{socket: socket}
	c.http.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}}
	return c
}

// Do sends in, unless it is nil, and decodes the answer into out, unless it is nil.
// A refusal is an *Error.
func (c *Client) Do(ctx context.Context, method, path string, in, out any) error {
	_, err := c.do(ctx, method, path, in, out)
	return err
}

// Create asks for an object by POST, and says whether an equal one existed already; out is it, in any case.
func (c *Client) Create(ctx context.Context, path string, in, out any) (existed bool, err error) {
	status, err := c.do(ctx, http.MethodPost, path, in, out)
	return status != http.StatusCreated, err
}

func (c *Client) do(ctx context.Context, method, path string, in, out any) (status int, err error) {
	status, body, err := c.open(ctx, method, path, in)
	if err != nil {
		return status, err
	}
	defer body.Close()
	if out == nil {
		_, err = io.Copy(io.Discard, body)
		return status, err
	}
	if err := json.NewDecoder(body).Decode(out); err != nil {
		return status, fmt.Errorf("read the agent's answer: %w", err)
	}
	return status, nil
}

// Stream calls fn with each object of an answer that goes on, until it ends.
func Stream[T any](ctx context.Context, c *Client, method, path string, fn func(T) error) error {
	_, body, err := c.open(ctx, method, path, nil)
	if err != nil {
		return err
	}
	defer body.Close()
	for d := json.NewDecoder(body); ; {
		var v T
		if err := d.Decode(&v); errors.Is(err, io.EOF) || ctx.Err() != nil {
			return nil
		} else if err != nil {
			return fmt.Errorf("read the agent's answer: %w", err)
		}
		if err := fn(v); err != nil {
			return err
		}
	}
}

// Download copies an answer that is not JSON to w and returns its length. A stream
// that the agent cut short is an error.
func (c *Client) Download(ctx context.Context, path string, w io.Writer) (int64, error) {
	_, body, err := c.open(ctx, http.MethodGet, path, nil)
	if err != nil {
		return 0, err
	}
	defer body.Close()
	n, err := io.Copy(w, body)
	if err != nil {
		return n, fmt.Errorf("read the agent's answer: %w", err)
	}
	return n, nil
}

func (c *Client) open(ctx context.Context, method, path string, in any) (int, io.ReadCloser, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return 0, nil, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, body)
	if err != nil {
		return 0, nil, err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return 0, nil, c.explain(err)
	}
	if res.StatusCode < 300 {
		return res.StatusCode, res.Body, nil
	}
	defer res.Body.Close()
	var p Problem
	if err := json.NewDecoder(res.Body).Decode(&p); err != nil || p.Error == "" {
		p = Problem{Error: "the agent answered " + res.Status, Kind: KindInternal}
	}
	return res.StatusCode, nil, &Error{p}
}

// explain says what to do about an agent that cannot be reached.
func (c *Client) explain(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return &UnreachableError{fmt.Sprintf("no agent runs at %s: the one that made this socket has ended without removing it, as when it is killed; start it again (mooring agent -config FILE), or name another agent's socket with -socket or MOORING_SOCKET", c.socket)}
	case errors.Is(err, os.ErrNotExist):
		return &UnreachableError{fmt.Sprintf("no agent listens at %s: start one (mooring agent -config FILE), or name its socket with -socket or MOORING_SOCKET", c.socket)}
	case errors.Is(err, os.ErrPermission):
		return &UnreachableError{fmt.Sprintf("the agent's socket %s is not yours: run as the agent's user or as root", c.socket)}
	}
	return fmt.Errorf("speak to the agent at %s: %w", c.socket, err)
}

// Kinds of refusals.
const (
	KindInvalid  = "invalid"
	KindNotFound = "not_found"
	KindExists   = "exists"
	KindInUse    = "in_use"
	KindManaged  = "managed"
	KindConflict = "conflict"
	KindFull     = "full"
	KindInternal = "internal"
)
