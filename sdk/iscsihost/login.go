package iscsihost

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/mooring-io/mooring/sdk/hostio"
	"github.com/mooring-io/mooring/sdk/iscsi"
)

const (
	// maxRedirects is how often a login may be sent on.
	maxRedirects = 8
	// maxExchanges bounds the requests of one login, and maxText what the target may say in all.
	maxExchanges = 32
	maxText      = 64 << 10
	// challengeBytes is the length of our challenge: that of the longest hash.
	challengeBytes = 32
)

// CHAP is how both sides prove who they are. The zero value proves nothing.
type CHAP struct {
	User         string // what the initiator calls itself; "" is its iSCSI name
	Secret       string
	MutualUser   string // what the target must call itself; "" is anything
	MutualSecret string // "" asks for no proof of the target
}

// String tells nothing.
func (CHAP) String() string { return "(CHAP)" }

// GoString tells nothing.
func (CHAP) GoString() string { return "(CHAP)" }

// Check says what proves nothing.
func (c CHAP) Check() error {
	switch {
	case c.Secret == "" && (c.User != "" || c.MutualUser != "" || c.MutualSecret != ""):
		return errors.New("CHAP without a secret of the initiator")
	case c.MutualSecret != "" && c.MutualSecret == c.Secret:
		return errors.New("CHAP with one secret for both sides, which proves nothing")
	}
	return nil
}

// LoginError is a login that the target refused.
type LoginError struct {
	Address string
	Status  iscsi.LoginStatus
}

func (e *LoginError) Error() string {
	text := fmt.Sprintf("login at %s refused: %s", e.Address, e.Status)
	switch e.Status {
	case iscsi.LoginNotFound:
		text += " (there is no such target)"
	case iscsi.LoginAuthorizationError:
		text += " (the target does not allow this initiator)"
	case iscsi.LoginAuthenticationError:
		text += " (CHAP: the target wants a proof, or the name or the secret is another)"
	}
	return text
}

// redirect is an answer that the target is elsewhere.
type redirect struct{ address string }

func (e *redirect) Error() string { return "redirected to " + e.address }

// connection is one that has logged in, which no loop owns yet.
type connection struct {
	fd     int
	at     string // address
	link   iscsi.Link
	params iscsi.Params // MaxRecvData is the target's
	window iscsi.Window
	cmdSN  iscsi.SN
}

// dial logs in at address, and wherever the target sends it on to.
func dial(ctx context.Context, address, target string, o *Options) (connection, error) {
	for range maxRedirects {
		c, err := dialOnce(ctx, address, target, o)
		var r *redirect
		if !errors.As(err, &r) {
			return c, err
		}
		address = r.address
	}
	return connection{}, fmt.Errorf("log in to %s: redirected %d times", target, maxRedirects)
}

func dialOnce(ctx context.Context, address, target string, o *Options) (connection, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return connection{}, fmt.Errorf("connect to %s: %w", address, err)
	}
	defer func() { _ = conn.Close() }() // its duplicate lives on
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	l := newLogin(conn, address, target, o)
	err = l.run()
	if !stop() {
		err = errors.Join(err, ctx.Err())
	}
	if err != nil {
		var refused *LoginError
		var sent *redirect
		if errors.As(err, &refused) || errors.As(err, &sent) {
			return connection{}, err // says where
		}
		return connection{}, fmt.Errorf("log in at %s: %w", address, err)
	}
	l.out.fd, err = hostio.Descriptor(conn.(*net.TCPConn))
	return l.out, err
}

// login is the initiator's half of the login phase. 6.3
type login struct {
	conn    net.Conn
	o       *Options
	target  string
	request iscsi.LoginRequest
	out     connection
	rounds  int
	begun   bool
}

func newLogin(conn net.Conn, address, target string, o *Options) *login {
	l := &login{conn: conn, o: o, target: target, out: connection{at: address, params: iscsi.DefaultParams(), cmdSN: 1}}
	// A random ISID: every session is an initiator port of its own, so that none ends another. 11.12.5
	l.request = iscsi.LoginRequest{ISID: iscsi.ISID{0x80}, ITT: 1, CmdSN: l.out.cmdSN}
	_, _ = rand.Read(l.request.ISID[1:])
	return l
}

func (l *login) run() error {
	if err := l.security(); err != nil {
		return err
	}
	return l.operational()
}

// security proves who both are, as far as that is asked for. 6.3.2, 12.1
func (l *login) security() error {
	c := l.o.CHAP
	offer := []iscsi.Pair{
		{Key: iscsi.KeyInitiatorName, Value: l.o.Initiator}, {Key: iscsi.KeyTargetName, Value: l.target},
		{Key: iscsi.KeySessionType, Value: iscsi.SessionNormal},
	}
	if c.Secret == "" {
		_, err := l.stage(iscsi.StageSecurity, append(offer, iscsi.Pair{Key: iscsi.KeyAuthMethod, Value: iscsi.AnswerNone}), true, iscsi.StageOperational)
		return err
	}
	methods := iscsi.AuthCHAP + "," + iscsi.AnswerNone
	if c.MutualSecret != "" {
		methods = iscsi.AuthCHAP
	}
	got, err := l.stage(iscsi.StageSecurity, append(offer, iscsi.Pair{Key: iscsi.KeyAuthMethod, Value: methods}), false, 0)
	if err != nil {
		return err
	}
	switch m := value(got, iscsi.KeyAuthMethod); {
	case m == iscsi.AnswerNone && c.MutualSecret == "":
		_, err := l.stage(iscsi.StageSecurity, nil, true, iscsi.StageOperational)
		return err
	case m != iscsi.AuthCHAP:
		return fmt.Errorf("the target answered AuthMethod=%q", m)
	}
	return l.chap(c)
}

func (l *login) chap(c CHAP) error {
	// The best first. 7 is not offered: to tgt it means SHA-1, to the registry SHA-256.
	algorithms := fmt.Sprintf("%d,%d,%d", iscsi.CHAPSHA3256, iscsi.CHAPSHA1, iscsi.CHAPMD5)
	got, err := l.stage(iscsi.StageSecurity, []iscsi.Pair{{Key: iscsi.KeyCHAPAlgorithm, Value: algorithms}}, false, 0)
	if err != nil {
		return err
	}
	a, aerr := iscsi.ParseNumber(value(got, iscsi.KeyCHAPAlgorithm))
	id, ierr := iscsi.ParseNumber(value(got, iscsi.KeyCHAPIdentifier))
	challenge, cerr := iscsi.ParseBinary(value(got, iscsi.KeyCHAPChallenge), iscsi.MaxCHAPBytes)
	algorithm := iscsi.CHAPAlgorithm(a)
	if err := errors.Join(aerr, ierr, cerr); err != nil || a > 255 || id > 255 || !algorithm.Known() {
		return errors.Join(errors.New("the target's challenge cannot be read"), err)
	}
	user := c.User
	if user == "" {
		user = l.o.Initiator
	}
	answer := []iscsi.Pair{
		{Key: iscsi.KeyCHAPName, Value: user},
		{Key: iscsi.KeyCHAPResponse, Value: iscsi.FormatBinary(iscsi.CHAPResponse(algorithm, uint8(id), []byte(c.Secret), challenge))},
	}
	ours := make([]byte, challengeBytes+1) // the identifier in front
	_, _ = rand.Read(ours)
	if c.MutualSecret != "" {
		answer = append(answer, iscsi.Pair{Key: iscsi.KeyCHAPIdentifier, Value: strconv.Itoa(int(ours[0]))},
			iscsi.Pair{Key: iscsi.KeyCHAPChallenge, Value: iscsi.FormatBinary(ours[1:])})
	}
	if got, err = l.stage(iscsi.StageSecurity, answer, true, iscsi.StageOperational); err != nil {
		return err
	}
	if c.MutualSecret == "" {
		return nil
	}
	proof, err := iscsi.ParseBinary(value(got, iscsi.KeyCHAPResponse), iscsi.MaxCHAPBytes)
	right := iscsi.CHAPResponse(algorithm, ours[0], []byte(c.MutualSecret), ours[1:])
	if err != nil || !iscsi.CHAPEqual(proof, right) || c.MutualUser != "" && value(got, iscsi.KeyCHAPName) != c.MutualUser {
		return errors.New("the target did not prove who it is")
	}
	return nil
}

// operational agrees on everything else. 6.3.3
func (l *login) operational() error {
	wish := l.o.wish()
	accept := func(got []iscsi.Pair) error {
		for _, p := range got {
			if err := l.out.params.Accept(&wish, p.Key, p.Value); err != nil {
				return err
			}
		}
		return nil
	}
	// What was offered and is not answered keeps its default.
	if _, err := l.stageWith(iscsi.StageOperational, wish.Offers(false), true, iscsi.StageFullFeature, accept); err != nil {
		return err
	}
	p := &l.out.params
	l.out.link = iscsi.Link{HeaderDigest: p.HeaderDigest, DataDigest: p.DataDigest}
	if p.ErrorRecoveryLevel != 0 || p.MaxConnections != 1 {
		return errors.New("the target negotiated more than was offered")
	}
	return nil
}

func (l *login) stage(at iscsi.Stage, say []iscsi.Pair, transit bool, next iscsi.Stage) ([]iscsi.Pair, error) {
	return l.stageWith(at, say, transit, next, func([]iscsi.Pair) error { return nil })
}

// stageWith says something, and returns what the target says to it. With transit it goes on until the
// target agrees to the next stage.
func (l *login) stageWith(at iscsi.Stage, say []iscsi.Pair, transit bool, next iscsi.Stage, accept func([]iscsi.Pair) error) ([]iscsi.Pair, error) {
	var text []byte
	for _, p := range say {
		text = iscsi.AppendPair(text, p.Key, p.Value)
	}
	var all []iscsi.Pair
	for {
		resp, got, err := l.exchange(at, text, transit, next)
		if err != nil {
			return nil, err
		}
		if err := accept(got); err != nil {
			return nil, err
		}
		all = append(all, got...)
		switch {
		case resp.Transit && (!transit || resp.Next != next):
			return nil, fmt.Errorf("the target goes on to stage %d by itself", resp.Next)
		case resp.Transit || !transit:
			return all, nil
		}
		text = nil // agreed; it has more to say
	}
}

// exchange sends one request, and returns the answer with all its text.
func (l *login) exchange(at iscsi.Stage, text []byte, transit bool, next iscsi.Stage) (iscsi.LoginResponse, []iscsi.Pair, error) {
	q := &l.request
	q.Transit, q.Current, q.Next = transit, at, next
	var all []byte
	for {
		if l.rounds++; l.rounds > maxExchanges {
			return iscsi.LoginResponse{}, nil, fmt.Errorf("the login does not end after %d requests", maxExchanges)
		}
		q.DataBytes, q.ExpStatSN = len(text), l.out.window.StatSN
		if _, err := l.conn.Write((iscsi.Link{}).AppendTail(append(q.Append(nil), text...), text)); err != nil {
			return iscsi.LoginResponse{}, nil, err
		}
		resp, more, err := l.receive()
		if err != nil {
			return resp, nil, err
		}
		if all = append(all, more...); len(all) > maxText {
			return resp, nil, fmt.Errorf("the target says more than %d bytes", maxText)
		}
		if resp.Continue && resp.Status == iscsi.LoginSuccess {
			text, q.Transit = nil, false
			continue
		}
		pairs, err := iscsi.ParseText(all)
		if err != nil {
			return resp, nil, err
		}
		return resp, pairs, l.judge(&resp, pairs)
	}
}

// receive returns one Login Response and its text.
func (l *login) receive() (iscsi.LoginResponse, []byte, error) {
	b := make([]byte, iscsi.HeaderSize)
	if _, err := io.ReadFull(l.conn, b); err != nil {
		return iscsi.LoginResponse{}, nil, err
	}
	h, _, _ := iscsi.ParseHeader(b)
	switch {
	case h.Opcode == iscsi.OpReject:
		r, _, _ := iscsi.ParseReject(b)
		return iscsi.LoginResponse{}, nil, fmt.Errorf("the target rejected the login: %s", r.Reason)
	case h.Opcode != iscsi.OpLoginResponse || h.AHSBytes > 0 || h.DataBytes > maxText:
		return iscsi.LoginResponse{}, nil, fmt.Errorf("the target sent a %s of %d bytes in the login phase", h.Opcode, h.DataBytes)
	}
	data := make([]byte, h.DataBytes+iscsi.Padding(h.DataBytes))
	if _, err := io.ReadFull(l.conn, data); err != nil {
		return iscsi.LoginResponse{}, nil, err
	}
	r, _, err := iscsi.ParseLoginResponse(b)
	return r, data[:h.DataBytes], err
}

// judge says what is wrong with a response, and keeps its numbers.
func (l *login) judge(r *iscsi.LoginResponse, pairs []iscsi.Pair) error {
	switch {
	case r.Status == iscsi.LoginMovedTemporarily || r.Status == iscsi.LoginMovedPermanently:
		address, err := redirectAddress(value(pairs, iscsi.KeyTargetAddress))
		if err != nil {
			return err
		}
		return &redirect{address}
	case r.Status != iscsi.LoginSuccess:
		return &LoginError{l.out.at, r.Status}
	case r.ITT != l.request.ITT || r.Current != l.request.Current:
		return errors.New("the target answered something that was not asked")
	case l.begun && r.StatSN != l.out.window.StatSN:
		return fmt.Errorf("status number %d came, %d was expected", r.StatSN, l.out.window.StatSN)
	}
	l.begun = true
	l.out.window = r.Window
	l.out.window.StatSN++ // what is expected next
	return nil
}

// redirectAddress takes the portal group tag off a TargetAddress. 13.8
func redirectAddress(s string) (string, error) {
	address, _, _ := strings.Cut(s, ",")
	host, port, err := net.SplitHostPort(address)
	if err != nil { // without a port, the well-known one
		host, port = strings.Trim(address, "[]"), strconv.Itoa(iscsi.Port)
	}
	if host == "" {
		return "", fmt.Errorf("the target is elsewhere, but %q is no address", s)
	}
	return net.JoinHostPort(host, port), nil
}

func value(pairs []iscsi.Pair, key string) string {
	for _, p := range pairs {
		if p.Key == key {
			return p.Value
		}
	}
	return ""
}
