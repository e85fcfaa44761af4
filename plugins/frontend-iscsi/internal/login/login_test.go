package login

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/mooring-io/mooring/sdk/iscsi"
)

const (
	initiator = "iqn.2026-11.com.example:host"
	open      = "iqn.2026-11.com.example:open"   // needs no proof
	guarded   = "iqn.2026-11.com.example:secret" // needs CHAP
	secret    = "a secret of 16 bytes"
	ours      = "another secret, which is ours"
)

var challenge = []byte("0123456789abcdef")

func options() Options {
	w := iscsi.DefaultParams()
	w.HeaderDigest, w.DataDigest, w.InitialR2T, w.MaxRecvData, w.MaxBurst, w.MaxOutstandingR2T = true, true, false, 1<<18, 1<<20, 4
	return Options{
		Wish: w, PortGroup: 1,
		Authenticate: func(target string) (needed, ok bool) { return target == guarded, target == open || target == guarded },
		Challenge:    func() (uint8, []byte) { return 7, challenge },
	}
}

// request is a Login Request with its text.
type request struct {
	iscsi.LoginRequest
	text string
}

// req makes a request in a stage that wants to go on to next; the same stage: to stay. Pairs are key=value.
func req(stage, next iscsi.Stage, pairs ...string) request {
	r := request{LoginRequest: iscsi.LoginRequest{Current: stage, ISID: iscsi.ISID{0x40, 1}, CID: 3, ITT: 5}}
	if next != stage {
		r.Transit, r.Next = true, next
	}
	for _, p := range pairs {
		r.text += p + "\x00"
	}
	return r
}

func (r request) with(edit func(*request)) request {
	edit(&r)
	return r
}

const (
	sec  = iscsi.StageSecurity
	op   = iscsi.StageOperational
	full = iscsi.StageFullFeature
)

var who = []string{"InitiatorName=" + initiator, "TargetName=" + open}

func pairs(s Step) string {
	list, err := iscsi.ParseText(s.Text)
	if err != nil {
		return err.Error()
	}
	var out []string
	for _, p := range list {
		out = append(out, p.Key+"="+p.Value)
	}
	return strings.Join(out, " ")
}

// judge is who holds the secrets: it answers a question with the right proof or none.
func judge(m *Machine, s Step) Step {
	q := s.Question
	right := iscsi.CHAPResponse(q.Algorithm, q.Identifier, []byte(secret), q.Challenge)
	if q.Target != guarded || q.Name != initiator || !iscsi.CHAPEqual(right, q.Response) {
		return m.Refuse(iscsi.LoginAuthenticationError, "", errors.New("wrong"))
	}
	if !q.Mutual {
		return m.Verified(99, "", nil)
	}
	return m.Verified(99, "target", iscsi.CHAPResponse(q.Algorithm, q.TheirIdentifier, []byte(ours), q.TheirChallenge))
}

// run has a machine take requests until one ends the login; what must be asked is.
func run(m *Machine, list ...request) Step {
	var s Step
	for _, r := range list {
		s = m.Take(r.LoginRequest, []byte(r.text))
		if s.Kind == Ask {
			s = judge(m, s)
		}
		if s.Kind != Send {
			break
		}
	}
	return s
}

func chapR(alg iscsi.CHAPAlgorithm, with string) string {
	return "CHAP_R=" + iscsi.FormatBinary(iscsi.CHAPResponse(alg, 7, []byte(with), challenge))
}

// Logins that end in a session, and what is said last.
func TestAdmitted(t *testing.T) {
	auth := []string{"InitiatorName=" + initiator, "TargetName=" + guarded, "AuthMethod=None,CHAP"}
	for name, c := range map[string]struct {
		requests []request
		text     string // of the last step
		proof    uint64
		check    func(*Result) bool
	}{
		"straight to the full feature phase": {requests: []request{req(op, full, who...)}, text: "TargetPortalGroupTag=1 MaxRecvDataSegmentLength=262144"},
		"one stage after the other": {
			requests: []request{req(sec, op, append(slices.Clone(who), "AuthMethod=CHAP,None")...), req(op, full, "HeaderDigest=CRC32C,None")},
			text:     "HeaderDigest=CRC32C MaxRecvDataSegmentLength=262144", check: func(r *Result) bool { return r.Params.HeaderDigest && !r.Params.DataDigest },
		},
		"from security straight to full feature": {requests: []request{req(sec, full, append(slices.Clone(who), "AuthMethod=None")...)}, text: "AuthMethod=None TargetPortalGroupTag=1"},
		"a discovery session": {
			requests: []request{req(op, full, "InitiatorName="+initiator, "SessionType=Discovery", "MaxBurstLength=1024")},
			text:     "MaxBurstLength=Irrelevant MaxRecvDataSegmentLength=262144", check: func(r *Result) bool { return r.Discovery && r.Target == "" },
		},
		"a text in two requests": {
			requests: []request{
				req(op, op).with(func(r *request) { r.Continue, r.text = true, "InitiatorName="+initiator+"\x00Targ" }), req(op, full).with(func(r *request) { r.text = "etName=" + open + "\x00" }),
			},
			text: "TargetPortalGroupTag=1 MaxRecvDataSegmentLength=262144",
		},
		"CHAP": {
			requests: []request{req(sec, sec, auth...), req(sec, sec, "CHAP_A=5"), req(sec, full, "CHAP_N="+initiator, chapR(iscsi.CHAPMD5, secret))},
			proof:    99, text: "",
		},
		"CHAP, the best of our algorithms first": {
			requests: []request{req(sec, op, auth...), req(sec, op, "CHAP_A=99,7,5"), req(sec, op, "CHAP_N="+initiator, chapR(iscsi.CHAPSHA256, secret)), req(op, full)},
			proof:    99, text: "MaxRecvDataSegmentLength=262144",
		},
		"mutual CHAP": {
			requests: []request{req(sec, sec, auth...), req(sec, sec, "CHAP_A=5"), req(sec, full, "CHAP_N="+initiator, chapR(iscsi.CHAPMD5, secret), "CHAP_I=9", "CHAP_C=0x00112233")},
			proof:    99,
			text: "CHAP_N=target CHAP_R=" + iscsi.FormatBinary(
				iscsi.CHAPResponse(iscsi.CHAPMD5, 9, []byte(ours), []byte{0, 0x11, 0x22, 0x33})),
		},
		"a key that nobody knows": {requests: []request{req(op, full, append(slices.Clone(who), "X-com.example.y=1")...)}, text: "X-com.example.y=NotUnderstood TargetPortalGroupTag=1 MaxRecvDataSegmentLength=262144"},
		"error recovery is negotiated down": {
			requests: []request{req(op, full, append(slices.Clone(who), "ErrorRecoveryLevel=2", "MaxConnections=8", "RDMAExtensions=Yes")...)},
			text:     "ErrorRecoveryLevel=0 MaxConnections=1 RDMAExtensions=No TargetPortalGroupTag=1 MaxRecvDataSegmentLength=262144",
		},
		"an offer outside of its range": {requests: []request{req(op, full, append(slices.Clone(who), "MaxBurstLength=511")...)}, text: "MaxBurstLength=Reject TargetPortalGroupTag=1 MaxRecvDataSegmentLength=262144"},
	} {
		m := New(options())
		s := run(m, c.requests...)
		if s.Kind != Admit {
			t.Errorf("%s: %v, %v", name, s.Kind, s.Err)
			continue
		}
		r := m.Result()
		if r.Initiator != initiator || r.Proof != c.proof || r.ISID != (iscsi.ISID{0x40, 1}) || r.CID != 3 || c.check != nil && !c.check(&r) {
			t.Errorf("%s: agreed on %+v", name, r)
		}
		s = m.Admitted(17)
		if got := pairs(s); s.Kind != Done || got != c.text || !s.Response.Transit || s.Response.Next != full || s.Response.TSIH != 17 || s.Response.Status != 0 {
			t.Errorf("%s: ends with %v, %+v, %q, want %q", name, s.Kind, s.Response, got, c.text)
		}
	}
}

// Logins that are refused, each with the status of its rule. 11.13.5
func TestRefused(t *testing.T) {
	auth := func(method string) request {
		return req(sec, sec, "InitiatorName="+initiator, "TargetName="+guarded, "AuthMethod="+method)
	}
	for name, c := range map[string]struct {
		status   iscsi.LoginStatus
		requests []request
	}{
		"a version that we do not speak":    {iscsi.LoginUnsupportedVersion, []request{req(op, full, who...).with(func(r *request) { r.VersionMin = 1 })}},
		"a second connection of a session":  {iscsi.LoginNoSession, []request{req(op, full, who...).with(func(r *request) { r.TSIH = 4 })}},
		"a beginning in the reserved stage": {iscsi.LoginInitiatorError, []request{req(2, full, who...)}},
		"a beginning in full feature":       {iscsi.LoginInitiatorError, []request{req(full, full, who...)}},
		"transit to an earlier stage":       {iscsi.LoginInitiatorError, []request{req(op, op, who...).with(func(r *request) { r.Transit, r.Next = true, sec })}},
		"transit to the reserved stage":     {iscsi.LoginInitiatorError, []request{req(op, 2, who...)}},
		"transit and continue":              {iscsi.LoginInitiatorError, []request{req(op, full, who...).with(func(r *request) { r.Continue = true })}},
		"another stage than was agreed on":  {iscsi.LoginInitiatorError, []request{req(sec, sec, append(slices.Clone(who), "AuthMethod=None")...), req(op, full)}},
		"another ISID than before":          {iscsi.LoginInvalidRequest, []request{req(op, op, who...), req(op, full).with(func(r *request) { r.ISID[5] = 9 })}},
		"another connection than before":    {iscsi.LoginInvalidRequest, []request{req(op, op, who...), req(op, full).with(func(r *request) { r.CID = 9 })}},
		"no initiator":                      {iscsi.LoginMissingParameter, []request{req(op, full, "TargetName="+open)}},
		"an initiator without a valid name": {iscsi.LoginInitiatorError, []request{req(op, full, "InitiatorName=me", "TargetName="+open)}},
		"no target":                         {iscsi.LoginMissingParameter, []request{req(op, full, "InitiatorName="+initiator)}},
		"a target that is not there":        {iscsi.LoginNotFound, []request{req(op, full, "InitiatorName="+initiator, "TargetName="+open+"x")}},
		"an unknown type of session":        {iscsi.LoginSessionType, []request{req(op, full, append(slices.Clone(who), "SessionType=Odd")...)}},
		"a key twice in one text":           {iscsi.LoginInitiatorError, []request{req(op, full, append(slices.Clone(who), "MaxBurstLength=1024", "MaxBurstLength=2048")...)}},
		"a key twice in the login":          {iscsi.LoginInitiatorError, []request{req(op, op, append(slices.Clone(who), "MaxBurstLength=1024")...), req(op, full, "MaxBurstLength=1024")}},
		"another target later on":           {iscsi.LoginInitiatorError, []request{req(op, op, "InitiatorName="+initiator, "SessionType=Discovery"), req(op, full, "TargetName="+open)}},
		"what only a target may say":        {iscsi.LoginInitiatorError, []request{req(op, full, append(slices.Clone(who), "TargetPortalGroupTag=1")...)}},
		"an operational key too early":      {iscsi.LoginInitiatorError, []request{req(sec, op, append(slices.Clone(who), "AuthMethod=None", "HeaderDigest=None")...)}},
		"an authentication method too late": {iscsi.LoginAuthenticationError, []request{req(op, full, append(slices.Clone(who), "CHAP_A=5")...)}},
		"no text":                           {iscsi.LoginInitiatorError, []request{req(op, full).with(func(r *request) { r.text = "InitiatorName" })}},
		"too much text": {iscsi.LoginInitiatorError, []request{
			req(op, op).with(func(r *request) { r.Continue, r.text = true, strings.Repeat("a", maxTextBytes) }), req(op, full, "b=c"),
		}},
		"so many keys that we cannot answer": {iscsi.LoginInitiatorError, []request{req(op, full, append(slices.Clone(who), func() (many []string) {
			for i := range 200 {
				many = append(many, fmt.Sprintf("X-com.example.key.%03d=1", i))
			}
			return many
		}()...)...)}},

		"no proof, from the first stage":    {iscsi.LoginAuthenticationError, []request{req(sec, full, "InitiatorName="+initiator, "TargetName="+guarded)}},
		"no proof, the stage was left out":  {iscsi.LoginAuthenticationError, []request{req(op, full, "InitiatorName="+initiator, "TargetName="+guarded)}},
		"only None is offered":              {iscsi.LoginAuthenticationError, []request{auth("None")}},
		"only methods that we have not":     {iscsi.LoginAuthenticationError, []request{auth("KRB5,SRP")}},
		"CHAP where there is no secret":     {iscsi.LoginAuthenticationError, []request{req(sec, op, append(slices.Clone(who), "AuthMethod=CHAP")...)}},
		"CHAP of another algorithm":         {iscsi.LoginAuthenticationError, []request{auth("CHAP"), req(sec, sec, "CHAP_A=99,255,0")}},
		"CHAP without an algorithm":         {iscsi.LoginAuthenticationError, []request{auth("CHAP"), req(sec, sec, "CHAP_N="+initiator)}},
		"CHAP that skips the challenge":     {iscsi.LoginAuthenticationError, []request{auth("CHAP"), req(sec, full, "CHAP_N="+initiator, chapR(iscsi.CHAPMD5, secret))}},
		"CHAP with another secret":          {iscsi.LoginAuthenticationError, []request{auth("CHAP"), req(sec, sec, "CHAP_A=5"), req(sec, full, "CHAP_N="+initiator, chapR(iscsi.CHAPMD5, "wrong"))}},
		"CHAP under another name":           {iscsi.LoginAuthenticationError, []request{auth("CHAP"), req(sec, sec, "CHAP_A=5"), req(sec, full, "CHAP_N=me", chapR(iscsi.CHAPMD5, secret))}},
		"CHAP of another algorithm's proof": {iscsi.LoginAuthenticationError, []request{auth("CHAP"), req(sec, sec, "CHAP_A=7"), req(sec, full, "CHAP_N="+initiator, chapR(iscsi.CHAPMD5, secret))}},
		"our challenge comes back": {iscsi.LoginAuthenticationError, []request{
			auth("CHAP"), req(sec, sec, "CHAP_A=5"),
			req(sec, full, "CHAP_N="+initiator, chapR(iscsi.CHAPMD5, secret), "CHAP_I=7", "CHAP_C="+iscsi.FormatBinary(challenge)),
		}},
		"a challenge without an identifier": {iscsi.LoginAuthenticationError, []request{
			auth("CHAP"), req(sec, sec, "CHAP_A=5"), req(sec, full, "CHAP_N="+initiator, chapR(iscsi.CHAPMD5, secret), "CHAP_C=0x11"),
		}},
		"a response that is too long": {iscsi.LoginAuthenticationError, []request{
			auth("CHAP"), req(sec, sec, "CHAP_A=5"), req(sec, full, "CHAP_N="+initiator, "CHAP_R=0x"+strings.Repeat("00", iscsi.MaxCHAPBytes+1)),
		}},
	} {
		s := run(New(options()), c.requests...)
		if s.Kind != Refuse || s.Response.Status != c.status || s.Err == nil || s.Response.Transit || len(s.Text) > 0 {
			t.Errorf("%s: %v with %s, %v; want %s", name, s.Kind, s.Response.Status, s.Err, c.status)
		}
	}
}

// An initiator that wants a proof of us where we have none is not let in.
func TestNoSecretOfOurs(t *testing.T) {
	m := New(options())
	s := run(m, req(sec, sec, "InitiatorName="+initiator, "TargetName="+guarded, "AuthMethod=CHAP"), req(sec, sec, "CHAP_A=5"))
	if s.Kind != Send || pairs(s) != "CHAP_A=5 CHAP_I=7 CHAP_C="+iscsi.FormatBinary(challenge) {
		t.Fatalf("%v, %q", s.Kind, pairs(s))
	}
	r := req(sec, full, "CHAP_N="+initiator, chapR(iscsi.CHAPMD5, secret), "CHAP_I=1", "CHAP_C=0x0011")
	if s = m.Take(r.LoginRequest, []byte(r.text)); s.Kind != Ask || !s.Question.Mutual {
		t.Fatalf("%v, %v", s.Kind, s.Err)
	}
	if s = m.Verified(1, "", nil); s.Kind != Refuse || s.Response.Status != iscsi.LoginAuthenticationError {
		t.Errorf("%v, %v", s.Kind, s.Err)
	}
}

// A redirection names the address.
func TestMoved(t *testing.T) {
	m := New(options())
	if s := run(m, req(op, full, who...)); s.Kind != Admit {
		t.Fatal(s.Kind, s.Err)
	}
	s := m.Refuse(iscsi.LoginMovedTemporarily, "192.0.2.1:3260", errors.New("elsewhere"))
	if s.Response.Status != iscsi.LoginMovedTemporarily || pairs(s) != "TargetAddress=192.0.2.1:3260" || s.Response.DataBytes != len(s.Text) {
		t.Errorf("%+v, %q", s.Response, pairs(s))
	}
}

// Every beginning of a text that ends in a session is refused, or leads to nothing without the rest.
func TestEveryPrefix(t *testing.T) {
	whole := req(op, full, append(slices.Clone(who), "HeaderDigest=CRC32C", "MaxBurstLength=4096")...)
	for n := range len(whole.text) {
		m := New(options())
		s := m.Take(whole.LoginRequest, []byte(whole.text[:n]))
		ends := n > 0 && whole.text[n-1] == 0 && strings.Contains(whole.text[:n], "TargetName="+open)
		if ends != (s.Kind == Admit) || !ends && s.Kind != Refuse {
			t.Errorf("with %d of %d bytes: %v, %v", n, len(whole.text), s.Kind, s.Err)
		}
	}
}

// Whatever comes, nobody is admitted without a name and the proof that his target wants, and every answer is one that
// an initiator takes.
func FuzzLogin(f *testing.F) {
	seed := func(list ...request) {
		var b []byte
		for _, r := range list {
			b = append(b, r.Append(nil)[1:24]...)
			b = append(b, byte(len(r.text)>>8), byte(len(r.text)))
			b = append(b, r.text...)
		}
		f.Add(b)
	}
	seed(req(op, full, who...))
	seed(req(sec, op, append(slices.Clone(who), "AuthMethod=None")...), req(op, full, "DataDigest=CRC32C", "ImmediateData=No"))
	seed(req(sec, sec, "InitiatorName="+initiator, "TargetName="+guarded, "AuthMethod=CHAP"), req(sec, sec, "CHAP_A=5"),
		req(sec, full, "CHAP_N="+initiator, chapR(iscsi.CHAPMD5, secret), "CHAP_I=1", "CHAP_C=0x11"))
	seed(req(op, full, "InitiatorName="+initiator, "SessionType=Discovery"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m := New(options())
		proved := false
		for len(b) >= 25 {
			head := append([]byte{byte(iscsi.OpLoginRequest) | 0x40}, b[:23]...)
			n := min(int(b[23])<<8|int(b[24]), len(b)-25)
			text := b[25 : 25+n]
			b = b[25+n:]
			r, _, err := iscsi.ParseLoginRequest(append(head, make([]byte, iscsi.HeaderSize-len(head))...))
			if err != nil {
				t.Fatal(err)
			}
			s := m.Take(r, bytes.Clone(text))
			if s.Kind == Ask {
				s = judge(m, s)
				proved = s.Kind != Refuse || m.auth == authAccepted
			}
			if s.Kind == Admit {
				x := m.Result()
				if iscsi.CheckName(x.Initiator) != nil || !x.Discovery && x.Target != open && (x.Target != guarded || !proved || x.Proof != 99) {
					t.Fatalf("admitted: %+v, proved %t", x, proved)
				}
				s = m.Admitted(1)
			}
			if s.Response.DataBytes != len(s.Text) || len(s.Text) > maxAnswerBytes {
				t.Fatalf("an answer of %d bytes says it has %d", len(s.Text), s.Response.DataBytes)
			}
			if _, err := iscsi.ParseText(s.Text); err != nil {
				t.Fatalf("answer %q: %v", s.Text, err)
			}
			switch {
			case (s.Kind == Refuse) != (s.Response.Status != 0), s.Kind == Refuse && s.Err == nil:
				t.Fatalf("%v with %s, %v", s.Kind, s.Response.Status, s.Err)
			case s.Kind == Send && s.Response.Transit && (s.Response.Next == full || s.Response.Next != m.stage):
				t.Fatalf("stage %d after a transit to %d", m.stage, s.Response.Next)
			case s.Kind != Send:
				return
			}
		}
	})
}
