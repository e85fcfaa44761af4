package iscsi

import (
	"fmt"
	"strconv"
	"strings"
)

// Keys of the negotiation that package iscsi only names. 13
const (
	KeyInitiatorName        = "InitiatorName"
	KeyInitiatorAlias       = "InitiatorAlias"
	KeyTargetName           = "TargetName"
	KeyTargetAlias          = "TargetAlias"
	KeyTargetAddress        = "TargetAddress"
	KeyTargetPortalGroupTag = "TargetPortalGroupTag"
	KeySessionType          = "SessionType"
	KeySendTargets          = "SendTargets"
	KeyAuthMethod           = "AuthMethod"
)

// Values of SessionType. 13.21
const (
	SessionNormal    = "Normal"
	SessionDiscovery = "Discovery"
)

// Keys that Params negotiates. 13
const (
	KeyHeaderDigest             = "HeaderDigest"
	KeyDataDigest               = "DataDigest"
	KeyMaxConnections           = "MaxConnections"
	KeyInitialR2T               = "InitialR2T"
	KeyImmediateData            = "ImmediateData"
	KeyMaxRecvDataSegmentLength = "MaxRecvDataSegmentLength"
	KeyMaxBurstLength           = "MaxBurstLength"
	KeyFirstBurstLength         = "FirstBurstLength"
	KeyDefaultTime2Wait         = "DefaultTime2Wait"
	KeyDefaultTime2Retain       = "DefaultTime2Retain"
	KeyMaxOutstandingR2T        = "MaxOutstandingR2T"
	KeyDataPDUInOrder           = "DataPDUInOrder"
	KeyDataSequenceInOrder      = "DataSequenceInOrder"
	KeyErrorRecoveryLevel       = "ErrorRecoveryLevel"
	KeyTaskReporting            = "TaskReporting"
	KeyProtocolLevel            = "iSCSIProtocolLevel"
)

// Params is what a session and its connection are about: before the negotiation, what one side
// would have; after it, what both have agreed on. 13
type Params struct {
	HeaderDigest        bool // CRC32C
	DataDigest          bool
	MaxConnections      uint32
	InitialR2T          bool
	ImmediateData       bool
	MaxRecvData         uint32 // MaxRecvDataSegmentLength in bytes: our own before, the peer's after
	MaxBurst            uint32 // bytes
	FirstBurst          uint32 // bytes
	Time2Wait           uint32 // seconds
	Time2Retain         uint32 // seconds
	MaxOutstandingR2T   uint32
	DataPDUInOrder      bool
	DataSequenceInOrder bool
	ErrorRecoveryLevel  uint32
	ProtocolLevel       uint32 // RFC 7144
}

// DefaultParams is what holds where nothing is negotiated. 13
func DefaultParams() Params {
	return Params{
		MaxConnections: 1, InitialR2T: true, ImmediateData: true, MaxRecvData: 8192, MaxBurst: 262_144, FirstBurst: 65_536,
		Time2Wait: 2, Time2Retain: 20, MaxOutstandingR2T: 1, DataPDUInOrder: true, DataSequenceInOrder: true, ProtocolLevel: 1,
	}
}

// rule says how a key is negotiated.
type rule struct {
	digest *field[bool]
	and    *field[bool]   // Yes only if both say so
	or     *field[bool]   // Yes if one says so
	lower  *field[uint32] // the lower of both numbers
	higher *field[uint32]
	tell   *field[uint32] // a declaration, which has no answer
	lowest uint32
	limit  uint32
	normal bool // irrelevant in a discovery session
}

// field finds a value within Params.
type field[T any] func(*Params) *T

func boolean(f field[bool]) *field[bool]    { return &f }
func number(f field[uint32]) *field[uint32] { return &f }

var rules = map[string]rule{
	KeyHeaderDigest:             {digest: boolean(func(p *Params) *bool { return &p.HeaderDigest })},
	KeyDataDigest:               {digest: boolean(func(p *Params) *bool { return &p.DataDigest })},
	KeyMaxConnections:           {lower: number(func(p *Params) *uint32 { return &p.MaxConnections }), lowest: 1, limit: 65_535, normal: true},
	KeyInitialR2T:               {or: boolean(func(p *Params) *bool { return &p.InitialR2T }), normal: true},
	KeyImmediateData:            {and: boolean(func(p *Params) *bool { return &p.ImmediateData }), normal: true},
	KeyMaxRecvDataSegmentLength: {tell: number(func(p *Params) *uint32 { return &p.MaxRecvData }), lowest: 512, limit: MaxDataBytes},
	KeyMaxBurstLength:           {lower: number(func(p *Params) *uint32 { return &p.MaxBurst }), lowest: 512, limit: MaxDataBytes, normal: true},
	KeyFirstBurstLength:         {lower: number(func(p *Params) *uint32 { return &p.FirstBurst }), lowest: 512, limit: MaxDataBytes, normal: true},
	KeyDefaultTime2Wait:         {higher: number(func(p *Params) *uint32 { return &p.Time2Wait }), limit: 3600},
	KeyDefaultTime2Retain:       {lower: number(func(p *Params) *uint32 { return &p.Time2Retain }), limit: 3600},
	KeyMaxOutstandingR2T:        {lower: number(func(p *Params) *uint32 { return &p.MaxOutstandingR2T }), lowest: 1, limit: 65_535, normal: true},
	KeyDataPDUInOrder:           {or: boolean(func(p *Params) *bool { return &p.DataPDUInOrder }), normal: true},
	KeyDataSequenceInOrder:      {or: boolean(func(p *Params) *bool { return &p.DataSequenceInOrder }), normal: true},
	KeyErrorRecoveryLevel:       {lower: number(func(p *Params) *uint32 { return &p.ErrorRecoveryLevel }), limit: 2},
	KeyProtocolLevel:            {lower: number(func(p *Params) *uint32 { return &p.ProtocolLevel }), limit: 31},
}

// Operational says whether Params negotiates the key, or answers it by a rule of its own.
func Operational(key string) bool {
	_, ok := rules[key]
	return ok || fixed[key] != ""
}

// fixed are keys whose answer is always the same. iSER is not spoken (RFC 7145); markers are
// obsolete, and refused in the way that initiators of all ages understand, not as 13.25 advises.
var fixed = map[string]string{
	KeyTaskReporting: "RFC3720",
	"RDMAExtensions": AnswerNo,
	"OFMarker":       AnswerNo,
	"IFMarker":       AnswerNo,
}

// Answer settles a key that the other side offers, where we wish for w, and returns the answer; ""
// is none. Params has the outcome. An offer that breaks the rules of its key is answered with
// Reject and changes nothing.
func (p *Params) Answer(w *Params, discovery bool, key, offer string) string {
	r, ok := rules[key]
	if !ok {
		if a := fixed[key]; a != "" {
			return a
		}
		return AnswerNotUnderstood
	}
	if discovery && r.normal {
		return AnswerIrrelevant
	}
	switch {
	case r.digest != nil:
		return p.answerDigest(r, w, offer)
	case r.and != nil, r.or != nil:
		return p.answerBool(r, w, offer)
	}
	n, err := ParseNumber(offer)
	if err != nil || n < uint64(r.lowest) || n > uint64(r.limit) {
		return AnswerReject
	}
	v := uint32(n)
	switch {
	case r.tell != nil:
		*(*r.tell)(p) = v
		return ""
	case r.lower != nil:
		v = min(v, *(*r.lower)(w))
		*(*r.lower)(p) = v
	default:
		v = max(v, *(*r.higher)(w))
		*(*r.higher)(p) = v
	}
	return strconv.FormatUint(uint64(v), 10)
}

const digestCRC32C = "CRC32C"

// answerDigest takes the first of the list that we know and do not mind. 6.2.1
func (p *Params) answerDigest(r rule, w *Params, offer string) string {
	for _, o := range strings.Split(offer, ",") {
		if o == AnswerNone || o == digestCRC32C && *(*r.digest)(w) {
			*(*r.digest)(p) = o == digestCRC32C
			return o
		}
	}
	return AnswerReject
}

func (p *Params) answerBool(r rule, w *Params, offer string) string {
	if offer != AnswerYes && offer != AnswerNo {
		return AnswerReject
	}
	v := offer == AnswerYes
	if r.and != nil {
		v = v && *(*r.and)(w)
		*(*r.and)(p) = v
	} else {
		v = v || *(*r.or)(w)
		*(*r.or)(p) = v
	}
	return yesNo(v)
}

func yesNo(v bool) string {
	if v {
		return AnswerYes
	}
	return AnswerNo
}

// Offers lists what p wishes for, as an initiator offers it. A discovery session has fewer keys.
func (p *Params) Offers(discovery bool) []Pair {
	out := []Pair{
		{KeyHeaderDigest, digestOffer(p.HeaderDigest)}, {KeyDataDigest, digestOffer(p.DataDigest)},
		{KeyMaxRecvDataSegmentLength, decimal(p.MaxRecvData)},
		{KeyDefaultTime2Wait, decimal(p.Time2Wait)}, {KeyDefaultTime2Retain, decimal(p.Time2Retain)},
		{KeyErrorRecoveryLevel, decimal(p.ErrorRecoveryLevel)},
	}
	if discovery {
		return out
	}
	return append(out,
		Pair{KeyMaxConnections, decimal(p.MaxConnections)}, Pair{KeyInitialR2T, yesNo(p.InitialR2T)},
		Pair{KeyImmediateData, yesNo(p.ImmediateData)}, Pair{KeyMaxBurstLength, decimal(p.MaxBurst)},
		Pair{KeyFirstBurstLength, decimal(p.FirstBurst)}, Pair{KeyMaxOutstandingR2T, decimal(p.MaxOutstandingR2T)},
		Pair{KeyDataPDUInOrder, yesNo(p.DataPDUInOrder)}, Pair{KeyDataSequenceInOrder, yesNo(p.DataSequenceInOrder)},
	)
}

func decimal(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

func digestOffer(on bool) string {
	if on {
		return digestCRC32C + "," + AnswerNone
	}
	return AnswerNone
}

// Accept takes the answer to an offer of w, or a declaration of the target's. An answer that the
// offer does not allow is an error.
func (p *Params) Accept(w *Params, key, answer string) error {
	r, ok := rules[key]
	if !ok || answer == AnswerIrrelevant || answer == AnswerNotUnderstood {
		return nil
	}
	wrong := fmt.Errorf("the target answered %s=%s", key, answer)
	switch {
	case r.digest != nil:
		on := answer == digestCRC32C
		if answer != AnswerNone && !on || on && !*(*r.digest)(w) {
			return wrong
		}
		*(*r.digest)(p) = on
		return nil
	case r.and != nil:
		v, wish := answer == AnswerYes, *(*r.and)(w)
		if answer != AnswerYes && answer != AnswerNo || v && !wish {
			return wrong
		}
		*(*r.and)(p) = v
		return nil
	case r.or != nil:
		v, wish := answer == AnswerYes, *(*r.or)(w)
		if answer != AnswerYes && answer != AnswerNo || !v && wish {
			return wrong
		}
		*(*r.or)(p) = v
		return nil
	}
	n, err := ParseNumber(answer)
	if err != nil || n < uint64(r.lowest) || n > uint64(r.limit) {
		return wrong
	}
	v := uint32(n)
	switch {
	case r.tell != nil:
		*(*r.tell)(p) = v
	case r.lower != nil:
		if v > *(*r.lower)(w) {
			return wrong
		}
		*(*r.lower)(p) = v
	default:
		if v < *(*r.higher)(w) {
			return wrong
		}
		*(*r.higher)(p) = v
	}
	return nil
}
