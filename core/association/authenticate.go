package association

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"slices"
	"sync"
	"time"

	"github.com/mooring-io/mooring/sdk/iscsi"
	"github.com/mooring-io/mooring/sdk/proto"
)

const (
	// proofLife is how long after Authenticate the host may associate.
	proofLife = 30 * time.Second
	// maxProofs is how many proofs of a plugin wait for their association; the oldest makes room.
	maxProofs = 1024
)

// proof is what Authenticate found right: the host may begin one association with the target, soon.
type proof struct {
	number       uint64
	host, target string
	until        time.Time
}

// proofs are those of one plugin that were not used yet, the oldest first.
type proofs struct {
	mu   sync.Mutex
	list []proof // guarded by mu
}

// add makes a proof and returns its number, which nobody can guess and which is not 0.
func (p *proofs) add(host, target string, now time.Time) uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // it does not fail
	number := binary.LittleEndian.Uint64(b[:]) | 1
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list = slices.DeleteFunc(p.list, func(x proof) bool { return now.After(x.until) })
	if len(p.list) >= maxProofs {
		p.list = slices.Delete(p.list, 0, 1)
	}
	p.list = append(p.list, proof{number, host, target, now.Add(proofLife)})
	return number
}

// use takes a proof away, if there is one like that.
func (p *proofs) use(number uint64, host, target string, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.list, func(x proof) bool { return x.number == number && x.host == host && x.target == target })
	if i < 0 {
		return false
	}
	ok := !now.After(p.list[i].until)
	p.list = slices.Delete(p.list, i, i+1)
	return ok
}

// Authenticate implements proto.CoreServer. RFC 7143 12.1.3
func (l *life) Authenticate(ctx context.Context, r *proto.AuthenticateRequest) (*proto.AuthenticateResponse, error) {
	leased, stop := l.service.leased(ctx)
	defer stop()
	out, err := l.authenticate(leased, r)
	if address := l.service.elsewhere(r.GetHost().GetName(), r.GetSubsystem()); address != "" {
		return &proto.AuthenticateResponse{Message: "this node has lost its Meta session", Address: address}, nil
	}
	if err != nil {
		out = &proto.AuthenticateResponse{Message: err.Error()}
	}
	return out, nil
}

// authenticate fails if Meta cannot be asked.
func (l *life) authenticate(ctx context.Context, r *proto.AuthenticateRequest) (*proto.AuthenticateResponse, error) {
	no := func(why string) (*proto.AuthenticateResponse, error) {
		return &proto.AuthenticateResponse{Message: why}, nil
	}
	m := l.service.Meta
	target, err := m.Target(ctx, r.GetSubsystem())
	if err != nil {
		return nil, err
	}
	host, answer := r.GetHost().GetName(), r.GetAnswer()
	if target.CHAP == nil {
		return no("the target asks for no proof")
	}
	secrets, err := m.TargetCHAP(ctx, target.IQN)
	if err != nil {
		return nil, err
	}
	user := target.CHAP.User
	if user == "" {
		user = host
	}
	right := chap(secrets.Secret, answer.GetChallenge())
	if right == nil || answer.GetName() != user || !iscsi.CHAPEqual(right, answer.GetResponse()) {
		l.service.refusals.tell(l.service.Journal, host, target.IQN, "host-not-authenticated", "at "+target.IQN+": it gave another name or secret")
		return no("the name or the secret is another")
	}
	out := &proto.AuthenticateResponse{Ok: true}
	if c := r.GetChallenge(); c != nil {
		if !target.CHAP.Mutual {
			return no("the initiator wants a proof of the target, which has no secret for that")
		}
		if out.Name = target.CHAP.MutualUser; out.Name == "" {
			out.Name = target.IQN
		}
		if out.Response = chap(secrets.Mutual, c); out.Response == nil {
			return no("the initiator's challenge cannot be answered")
		}
	}
	out.Proof = l.proofs.add(host, target.IQN, time.Now())
	return out, nil
}

// chap answers a challenge; nil if it cannot be.
func chap(secret []byte, c *proto.ChapChallenge) []byte {
	a := iscsi.CHAPAlgorithm(c.GetAlgorithm())
	if c.GetAlgorithm() > 255 || !a.Known() || c.GetIdentifier() > 255 || len(c.GetChallenge()) == 0 || len(secret) == 0 {
		return nil
	}
	return iscsi.CHAPResponse(a, uint8(c.GetIdentifier()), secret, c.GetChallenge())
}
