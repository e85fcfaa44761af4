package meta_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/mooring-io/mooring/core/meta"
)

func TestTargetCHAP(t *testing.T) {
	w := newWorld(t)
	_, err := w.CreateTarget(w.ctx, meta.Target{IQN: iqn, AllowAnyHost: true})
	w.must(err)
	one, two := []byte("the first secret"), []byte("the second secret")
	for name, c := range map[string]struct {
		chap    meta.CHAP
		secrets meta.CHAPSecrets
	}{
		"no secret":        {meta.CHAP{}, meta.CHAPSecrets{}},
		"too short":        {meta.CHAP{}, meta.CHAPSecrets{Secret: []byte("elevenbytes")}},
		"too long":         {meta.CHAP{}, meta.CHAPSecrets{Secret: bytes.Repeat([]byte("x"), 256)}},
		"no mutual secret": {meta.CHAP{Mutual: true}, meta.CHAPSecrets{Secret: one}},
		"the same secret":  {meta.CHAP{Mutual: true}, meta.CHAPSecrets{Secret: one, Mutual: one}},
		"mutual user":      {meta.CHAP{MutualUser: "x"}, meta.CHAPSecrets{Secret: one}},
		"a long user":      {meta.CHAP{User: strings.Repeat("x", 256)}, meta.CHAPSecrets{Secret: one}},
	} {
		if err := w.SetTargetCHAP(w.ctx, iqn, &c.chap, c.secrets); err == nil || strings.Contains(err.Error(), "first secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.is(w.SetTargetCHAP(w.ctx, iqn+"2", &meta.CHAP{}, meta.CHAPSecrets{Secret: one}), meta.ErrNotFound)
	w.must(w.SetTargetCHAP(w.ctx, iqn, &meta.CHAP{User: "u", Mutual: true}, meta.CHAPSecrets{Secret: one, Mutual: two}))
	x, err := w.Target(w.ctx, iqn)
	w.must(err)
	s, err := w.TargetCHAP(w.ctx, iqn)
	w.must(err)
	if x.CHAP == nil || x.CHAP.User != "u" || !x.CHAP.Mutual || !bytes.Equal(s.Secret, one) || !bytes.Equal(s.Mutual, two) {
		t.Errorf("%+v", x.CHAP)
	}
	_, err = w.CreateTarget(w.ctx, meta.Target{IQN: iqn, AllowAnyHost: true}) // the same request, repeated
	w.must(err)
	w.must(w.SetTargetCHAP(w.ctx, iqn, nil, meta.CHAPSecrets{}))
	_, err = w.TargetCHAP(w.ctx, iqn)
	w.is(err, meta.ErrNotFound)
	w.must(w.SetTargetCHAP(w.ctx, iqn, &meta.CHAP{}, meta.CHAPSecrets{Secret: one}))
	w.must(w.DeleteTarget(w.ctx, iqn))
	_, err = w.TargetCHAP(w.ctx, iqn) // a target that is made anew does not have the old one's secrets
	w.is(err, meta.ErrNotFound)
}

// A file sets targets as it does subsystems, secrets included.
func TestManagedTargets(t *testing.T) {
	w := newWorld(t)
	w.volume("a", gib)
	by := meta.Managed{File: "node.hcl", Line: 3}
	want := meta.DesiredSubsystem{
		NQN: iqn, AllowedHosts: []string{"iqn.2026-11.com.example:host"}, Managed: by,
		Target:     &meta.TargetOptions{Mode: meta.Redirect, CHAP: &meta.CHAP{}},
		Secrets:    meta.CHAPSecrets{Secret: []byte("the first secret")},
		Namespaces: []meta.DesiredNamespace{{NSID: meta.LUN(0).NSID(), Volume: "a", Managed: by}},
	}
	apply := func(list ...meta.DesiredSubsystem) meta.Report {
		t.Helper()
		r, err := w.ApplyManaged(w.ctx, meta.Desired{Subsystems: list})
		w.must(err)
		w.must(r.Err())
		return r
	}
	if r := apply(want); strings.Join(r.Created, ", ") != "target "+iqn+", target "+iqn+" LUN 0" {
		t.Errorf("created %q", r.Created)
	}
	if r := apply(want); len(r.Updated) > 0 || r.Unchanged != 2 {
		t.Errorf("applied twice: %+v", r)
	}
	err := w.SetTargetCHAP(w.ctx, iqn, nil, meta.CHAPSecrets{})
	if err == nil || !strings.Contains(err.Error(), "node.hcl:3") {
		t.Errorf("the CLI changes what the file sets: %v", err)
	}
	want.Secrets.Secret = []byte("the second secret")
	apply(want)
	if s, err := w.TargetCHAP(w.ctx, iqn); err != nil || string(s.Secret) != "the second secret" {
		t.Errorf("after a reload: %v", err)
	}
	want.Target = &meta.TargetOptions{Mode: meta.Redirect}
	if r := apply(want); len(r.Updated) != 1 {
		t.Errorf("without CHAP: %+v", r)
	}
	if x, err := w.Target(w.ctx, iqn); err != nil || x.CHAP != nil || x.Managed == nil {
		t.Errorf("%+v, %v", x, err)
	}
	if r := apply(); len(r.Unmanaged) != 2 {
		t.Errorf("without the block: %+v", r)
	}
	w.must(w.DetachNamespace(w.ctx, iqn, 1))
	w.must(w.DeleteTarget(w.ctx, iqn))
}

// A host that has names in both protocols is called by the right one.
func TestHostNames(t *testing.T) {
	w := newWorld(t)
	_, err := w.CreateHost(w.ctx, meta.Host{Name: "both", NQN: "nqn.2026-11.io.mooring:h", IQN: "iqn.2026-11.io.mooring:h"})
	w.must(err)
	_, err = w.CreateHost(w.ctx, meta.Host{Name: "one", IQN: "iqn.2026-11.io.mooring:i"})
	w.must(err)
	for _, c := range []struct {
		protocol   meta.Protocol
		name, want string
	}{
		{meta.NVMe, "both", "nqn.2026-11.io.mooring:h"}, {meta.ISCSI, "both", "iqn.2026-11.io.mooring:h"}, {meta.ISCSI, "one", "iqn.2026-11.io.mooring:i"},
		{meta.ISCSI, "iqn.2026-11.io.mooring:j", "iqn.2026-11.io.mooring:j"},
	} {
		if got, err := w.ResolveHost(w.ctx, c.protocol, c.name); err != nil || got != c.want {
			t.Errorf("%s: %s, %v", c.name, got, err)
		}
	}
	_, err = w.ResolveHost(w.ctx, meta.NVMe, "one")
	w.is(err, meta.ErrInvalid)
	_, err = w.ResolveHost(w.ctx, meta.ISCSI, "nqn.2026-11.io.mooring:h")
	w.is(err, meta.ErrInvalid)
	_, err = w.CreateHost(w.ctx, meta.Host{Name: "none"})
	w.is(err, meta.ErrInvalid)
}
