// Package login is the target's half of the login phase of one connection: stages, security and
// operational negotiation. It is a state machine without I/O: requests go in, and out comes what is
// to be sent, or what somebody else must be asked first. It does not own sequence numbers, targets,
// secrets or sessions.
//
// Edition cited: RFC 7143.
package login

import (
	"fmt"
	"strconv"

	"github.com/mooring-io/mooring/sdk/iscsi"
)

const (
	// maxTextBytes is the most text that the initiator may send at a time, in several requests.
	maxTextBytes = 64 << 10
	// maxAnswerBytes is what an initiator takes in one PDU of the login phase. 13.12
	maxAnswerBytes = 8192
)

// Options are what a Machine is made of.
type Options struct {
	Wish iscsi.Params // what we would have
	// Authenticate says whether sessions with a target need a proof; ok is false if there is no
	// such target.
	Authenticate func(target string) (needed, ok bool)
	// Challenge makes an identifier and a challenge of CHAP. 12.1.3
	Challenge func() (identifier uint8, challenge []byte)
	PortGroup uint16 // TargetPortalGroupTag
}

// Machine is the login phase of one connection.
type Machine struct {
	o       Options
	stage   iscsi.Stage
	started bool
	isid    iscsi.ISID
	cid     uint16
	request iscsi.LoginRequest // being answered
	text    []byte             // gathered so far of a text in several requests
	seen    map[string]bool    // keys that were negotiated
	params  iscsi.Params
	out     []byte // the answer's text
	greeted bool   // the target's own declarations were sent

	initiator string
	target    string
	discovery bool

	auth      auth
	needed    bool // a proof is needed
	chap      iscsi.CHAPAlgorithm
	id        uint8
	challenge []byte
	question  *Question // waits for Verified
	proof     uint64
}

// auth is how far authentication is.
type auth uint8

const (
	authOpen     auth = iota // no method was chosen
	authNone                 // None was chosen
	authCHAP                 // CHAP was chosen, CHAP_A must come
	authAsked                // our challenge was sent, CHAP_R must come
	authAccepted             // the initiator has proved who it is
)

// Kind says what is to be done after a step.
type Kind uint8

// What is to be done.
const (
	Send   Kind = iota // send the response and wait for the next request
	Ask                // ask about Question, then call Verified
	Admit              // everything is agreed: make the session, then call Admitted or Refuse
	Done               // send the response: the full feature phase has begun
	Refuse             // send the response and close the connection
)

// Step is the outcome of a request.
type Step struct {
	Kind     Kind
	Response iscsi.LoginResponse // without its Window
	Text     []byte              // of the response; valid until the next step
	Question *Question
	Err      error // why it was refused, for the log
}

// Question is what an initiator says to prove who it is.
type Question struct {
	Initiator, Target string
	Algorithm         iscsi.CHAPAlgorithm
	Identifier        uint8
	Challenge         []byte // ours
	Name              string // CHAP_N
	Response          []byte // CHAP_R
	Mutual            bool   // the initiator wants a proof of us
	TheirIdentifier   uint8
	TheirChallenge    []byte
}

// New returns a machine that waits for the first request.
func New(o Options) *Machine {
	return &Machine{o: o, seen: map[string]bool{}, params: iscsi.DefaultParams()}
}

// Result is what was agreed on; valid from Admit on.
type Result struct {
	Initiator string
	Target    string // "": a discovery session
	Discovery bool
	ISID      iscsi.ISID
	CID       uint16
	Proof     uint64
	Params    iscsi.Params // MaxRecvData is the initiator's
}

// Result returns what was agreed on.
func (m *Machine) Result() Result {
	return Result{m.initiator, m.target, m.discovery, m.isid, m.cid, m.proof, m.params}
}

// refusal ends the login.
type refusal struct {
	status iscsi.LoginStatus
	why    string
}

func (r *refusal) Error() string { return fmt.Sprintf("%s: %s", r.status, r.why) }

func refuse(s iscsi.LoginStatus, why string, args ...any) error {
	return &refusal{s, fmt.Sprintf(why, args...)}
}

// Take takes a request with its data segment.
func (m *Machine) Take(r iscsi.LoginRequest, data []byte) Step {
	m.request = r
	m.out = m.out[:0]
	if err := m.header(); err != nil {
		return m.refused(err)
	}
	if len(m.text)+len(data) > maxTextBytes {
		return m.refused(refuse(iscsi.LoginInitiatorError, "more than %d bytes of text", maxTextBytes))
	}
	m.text = append(m.text, data...)
	if r.Continue {
		return m.respond(Send, false) // an empty answer asks for the rest. 6.2
	}
	pairs, err := iscsi.ParseText(m.text)
	m.text = m.text[:0]
	if err != nil {
		return m.refused(refuse(iscsi.LoginInitiatorError, "%v", err))
	}
	if err := m.negotiate(pairs); err != nil {
		return m.refused(err)
	}
	if len(m.out) > maxAnswerBytes/2 { // the rest is for what we say ourselves
		return m.refused(refuse(iscsi.LoginInitiatorError, "so many keys that the answer has %d bytes", len(m.out)))
	}
	if m.question != nil {
		return Step{Kind: Ask, Question: m.question}
	}
	return m.advance()
}

// header checks a request's own fields. 11.12
func (m *Machine) header() error {
	r := &m.request
	if !m.started {
		if r.VersionMin > 0 {
			return refuse(iscsi.LoginUnsupportedVersion, "version %d at least", r.VersionMin)
		}
		if r.TSIH != 0 {
			return refuse(iscsi.LoginNoSession, "a session has one connection, and ends with it")
		}
		m.started, m.stage, m.isid, m.cid = true, r.Current, r.ISID, r.CID
		if r.Current > iscsi.StageOperational {
			return refuse(iscsi.LoginInitiatorError, "the login begins with stage %d", r.Current)
		}
	}
	switch {
	case r.ISID != m.isid || r.CID != m.cid || r.TSIH != 0:
		return refuse(iscsi.LoginInvalidRequest, "another session or connection than before")
	case r.Current != m.stage:
		return refuse(iscsi.LoginInitiatorError, "stage %d, expected is %d", r.Current, m.stage)
	case r.Transit && r.Continue:
		return refuse(iscsi.LoginInitiatorError, "both transit and continue")
	case r.Transit && (r.Next <= r.Current || r.Next == 2):
		return refuse(iscsi.LoginInitiatorError, "transit from stage %d to %d", r.Current, r.Next)
	}
	return nil
}

// negotiate answers the keys of one text.
func (m *Machine) negotiate(pairs []iscsi.Pair) error {
	first := m.initiator == ""
	if first {
		if err := m.introduce(pairs); err != nil {
			return err
		}
	}
	values := map[string]string{} // of CHAP
	for _, p := range pairs {
		switch {
		case m.seen[p.Key]:
			return refuse(iscsi.LoginInitiatorError, "%s for the second time", p.Key)
		case declared[p.Key] && !first:
			return refuse(iscsi.LoginInitiatorError, "%s comes too late", p.Key)
		}
		m.seen[p.Key] = true
		switch p.Key {
		case iscsi.KeyInitiatorName, iscsi.KeyTargetName, iscsi.KeySessionType, iscsi.KeyInitiatorAlias:
		case iscsi.KeyAuthMethod:
			if err := m.method(p.Value); err != nil {
				return err
			}
		case iscsi.KeyCHAPAlgorithm, iscsi.KeyCHAPIdentifier, iscsi.KeyCHAPChallenge, iscsi.KeyCHAPName, iscsi.KeyCHAPResponse:
			values[p.Key] = p.Value
		case iscsi.KeyTargetAddress, iscsi.KeyTargetPortalGroupTag, iscsi.KeyTargetAlias, iscsi.KeySendTargets:
			return refuse(iscsi.LoginInitiatorError, "%s is not an initiator's to send in a login", p.Key)
		default:
			if err := m.operational(p); err != nil {
				return err
			}
		}
	}
	if len(values) > 0 {
		return m.challengeResponse(values)
	}
	return nil
}

// declared are keys that must come with the first text. 6.3, 13.4, 13.21
var declared = map[string]bool{iscsi.KeyInitiatorName: true, iscsi.KeyTargetName: true, iscsi.KeySessionType: true}

// introduce takes who the initiator is and what it wants. 6.3
func (m *Machine) introduce(pairs []iscsi.Pair) error {
	kind := iscsi.SessionNormal
	for _, p := range pairs {
		switch p.Key {
		case iscsi.KeyInitiatorName:
			m.initiator = p.Value
		case iscsi.KeyTargetName:
			m.target = p.Value
		case iscsi.KeySessionType:
			kind = p.Value
		}
	}
	if m.initiator == "" {
		return refuse(iscsi.LoginMissingParameter, "%s", iscsi.KeyInitiatorName)
	}
	if err := iscsi.CheckName(m.initiator); err != nil {
		return refuse(iscsi.LoginInitiatorError, "%v", err)
	}
	switch kind {
	case iscsi.SessionDiscovery:
		m.discovery, m.target = true, ""
		return nil
	case iscsi.SessionNormal:
	default:
		return refuse(iscsi.LoginSessionType, "a session of type %q", kind)
	}
	if m.target == "" {
		return refuse(iscsi.LoginMissingParameter, "%s", iscsi.KeyTargetName)
	}
	var ok bool
	if m.needed, ok = m.o.Authenticate(m.target); !ok {
		return refuse(iscsi.LoginNotFound, "there is no target %q", m.target)
	}
	return nil
}

// operational answers an operational key, which has no place in the security stage, or one that
// nobody knows. 6.3.2
func (m *Machine) operational(p iscsi.Pair) error {
	if m.stage == iscsi.StageSecurity && iscsi.Operational(p.Key) {
		return refuse(iscsi.LoginInitiatorError, "%s in the security stage", p.Key)
	}
	if a := m.params.Answer(&m.o.Wish, m.discovery, p.Key, p.Value); a != "" {
		m.say(p.Key, a)
	}
	return nil
}

func (m *Machine) say(key, value string) { m.out = iscsi.AppendPair(m.out, key, value) }

// method chooses how the initiator is to prove who it is: the first of its list that will do. 13.1
func (m *Machine) method(list string) error {
	if m.stage != iscsi.StageSecurity || m.auth != authOpen {
		return refuse(iscsi.LoginInitiatorError, "%s out of place", iscsi.KeyAuthMethod)
	}
	for rest := list; rest != ""; {
		var one string
		one, rest = cut(rest)
		switch {
		case one == iscsi.AnswerNone && !m.needed:
			m.auth = authNone
		case one == iscsi.AuthCHAP && m.needed:
			m.auth = authCHAP
		default:
			continue
		}
		m.say(iscsi.KeyAuthMethod, one)
		return nil
	}
	if m.needed {
		return refuse(iscsi.LoginAuthenticationError, "the target needs CHAP, the initiator offers %q", list)
	}
	return refuse(iscsi.LoginAuthenticationError, "the initiator insists on %q, and there is no secret for that", list)
}

func cut(list string) (one, rest string) {
	for i := range len(list) {
		if list[i] == ',' {
			return list[:i], list[i+1:]
		}
	}
	return list, ""
}

// challengeResponse goes through the steps of CHAP. 12.1.3
func (m *Machine) challengeResponse(v map[string]string) error {
	fail := func(why string, args ...any) error { return refuse(iscsi.LoginAuthenticationError, why, args...) }
	switch m.auth {
	case authCHAP:
		list, ok := v[iscsi.KeyCHAPAlgorithm]
		if !ok || len(v) != 1 {
			return fail("%s was expected", iscsi.KeyCHAPAlgorithm)
		}
		for rest := list; rest != "" && m.chap == 0; {
			var one string
			one, rest = cut(rest)
			if n, err := iscsi.ParseNumber(one); err == nil && n <= 255 && iscsi.CHAPAlgorithm(n).Known() {
				m.chap = iscsi.CHAPAlgorithm(n)
			}
		}
		if m.chap == 0 {
			return fail("none of the algorithms %q", list)
		}
		m.auth = authAsked
		m.id, m.challenge = m.o.Challenge()
		m.say(iscsi.KeyCHAPAlgorithm, strconv.Itoa(int(m.chap)))
		m.say(iscsi.KeyCHAPIdentifier, strconv.Itoa(int(m.id)))
		m.say(iscsi.KeyCHAPChallenge, iscsi.FormatBinary(m.challenge))
		return nil
	case authAsked:
		return m.ask(v)
	case authOpen, authNone, authAccepted:
	}
	return fail("keys of CHAP out of place")
}

// ask makes the question whether the initiator knows the secret.
func (m *Machine) ask(v map[string]string) error {
	fail := func(why string, args ...any) error { return refuse(iscsi.LoginAuthenticationError, why, args...) }
	q := &Question{
		Initiator: m.initiator, Target: m.target, Algorithm: m.chap, Identifier: m.id, Challenge: m.challenge, Name: v[iscsi.KeyCHAPName],
	}
	var err error
	if q.Response, err = iscsi.ParseBinary(v[iscsi.KeyCHAPResponse], iscsi.MaxCHAPBytes); err != nil || q.Name == "" {
		return fail("%s and %s were expected", iscsi.KeyCHAPName, iscsi.KeyCHAPResponse)
	}
	id, c := v[iscsi.KeyCHAPIdentifier], v[iscsi.KeyCHAPChallenge]
	if id != "" || c != "" {
		n, err := iscsi.ParseNumber(id)
		if err != nil || n > 255 {
			return fail("%s %q", iscsi.KeyCHAPIdentifier, id)
		}
		q.Mutual, q.TheirIdentifier = true, uint8(n)
		if q.TheirChallenge, err = iscsi.ParseBinary(c, iscsi.MaxCHAPBytes); err != nil || len(q.TheirChallenge) == 0 {
			return fail("%s is no challenge", iscsi.KeyCHAPChallenge)
		}
		if string(q.TheirChallenge) == string(m.challenge) {
			return fail("our challenge was reflected") // 9.2.1
		}
	}
	m.question = q
	return nil
}

// Verified goes on after Ask: proof is what the answer was good for; name and response are ours, if
// the initiator wants them.
func (m *Machine) Verified(proof uint64, name string, response []byte) Step {
	q := m.question
	m.question, m.proof, m.auth = nil, proof, authAccepted
	if q.Mutual {
		if name == "" || len(response) == 0 {
			return m.refused(refuse(iscsi.LoginAuthenticationError, "the initiator wants a proof of us, and there is no secret for that"))
		}
		m.say(iscsi.KeyCHAPName, name)
		m.say(iscsi.KeyCHAPResponse, iscsi.FormatBinary(response))
	}
	return m.advance()
}

// advance goes to the next stage if the initiator wants to and all that must come before is there.
func (m *Machine) advance() Step {
	m.declare()
	if !m.request.Transit {
		return m.respond(Send, false)
	}
	if m.stage == iscsi.StageSecurity && (m.auth == authCHAP || m.auth == authAsked) {
		return m.respond(Send, false) // CHAP is not over
	}
	if m.needed && m.auth != authAccepted {
		return m.refused(refuse(iscsi.LoginAuthenticationError, "the initiator has not proved who it is"))
	}
	if m.request.Next == iscsi.StageFullFeature {
		return Step{Kind: Admit}
	}
	m.stage = m.request.Next
	return m.respond(Send, true)
}

// declare says what only the target says: its portal group with the first answer, its limit with
// the first of the operational stage. 13.9, 13.12
func (m *Machine) declare() {
	if !m.greeted {
		m.greeted = true
		if !m.discovery {
			m.say(iscsi.KeyTargetPortalGroupTag, strconv.Itoa(int(m.o.PortGroup)))
		}
	}
	if m.stage == iscsi.StageOperational && !m.seen["our limit"] {
		m.seen["our limit"] = true // no key has a space
		m.say(iscsi.KeyMaxRecvDataSegmentLength, strconv.FormatUint(uint64(m.o.Wish.MaxRecvData), 10))
	}
}

// Admitted goes on after Admit: the session is there.
func (m *Machine) Admitted(tsih uint16) Step {
	s := m.respond(Done, true)
	s.Response.TSIH = tsih
	return s
}

// Refuse goes on after Ask or Admit: there will be no session. address is where to go with
// LoginMovedTemporarily.
func (m *Machine) Refuse(status iscsi.LoginStatus, address string, why error) Step {
	m.out = m.out[:0]
	if address != "" {
		m.say(iscsi.KeyTargetAddress, address)
	}
	s := m.respond(Refuse, false)
	s.Response.Status, s.Err = status, fmt.Errorf("%s: %w", status, why)
	return s
}

func (m *Machine) refused(err error) Step {
	m.out = m.out[:0]
	s := m.respond(Refuse, false)
	s.Response.Status, s.Err = iscsi.LoginTargetError, err
	if r, ok := err.(*refusal); ok {
		s.Response.Status = r.status
	}
	return s
}

func (m *Machine) respond(k Kind, transit bool) Step {
	r := iscsi.LoginResponse{
		Transit: transit, Current: m.request.Current, ISID: m.request.ISID, TSIH: m.request.TSIH, ITT: m.request.ITT, DataBytes: len(m.out),
	}
	if transit {
		r.Next = m.request.Next
	}
	return Step{Kind: k, Response: r, Text: m.out}
}
