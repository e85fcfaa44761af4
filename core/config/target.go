package config

import (
	"fmt"
	"os"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/mooring-io/mooring/sdk/iscsi"
)

// ValidIQN says whether s is an iSCSI name. RFC 7143 4.2.7
func ValidIQN(s string) bool { return iscsi.CheckName(s) == nil }

func iqnHelp(s string) string {
	return fmt.Sprintf("An IQN is \"iqn.yyyy-mm.reverse.domain:name\" in small letters, at most 223 bytes; it is %q.", s)
}

func (r *reader) hosts(in *file, c *Config) {
	hosts := names{r: r, kind: "host"}
	for _, h := range in.Hosts {
		hosts.add(h.Name, h.Range)
		switch {
		case h.NQN == "" && h.IQN == "":
			r.wrong(h.Range, "Host without a name", "A host block says what the host is called: nqn = \"...\", iqn = \"...\", or both.")
		case h.NQN != "" && !ValidNQN(h.NQN):
			r.wrong(at(h.Range, h.Body, "nqn"), "Invalid NQN", "%s", nqnHelp(h.NQN))
		case h.IQN != "" && !ValidIQN(h.IQN):
			r.wrong(at(h.Range, h.Body, "iqn"), "Invalid IQN", "%s", iqnHelp(h.IQN))
		}
		c.Hosts = append(c.Hosts, Host{Pos: pos(h.Range), Name: h.Name, NQN: h.NQN, IQN: h.IQN})
	}
}

// hostNames knows what the hosts of the file are called in one protocol.
type hostNames struct {
	r      *reader
	byName map[string]string // by the label of the block; "" where it has no such name
	what   string            // "NQN" or "IQN"
	valid  func(string) bool
}

// resolve turns a list of names of host blocks, and of NQNs or IQNs, into the latter.
func (n *hostNames) resolve(block hcl.Range, body hcl.Body, field string, in []string) []string {
	var out []string
	for i, h := range in {
		name, known := n.byName[h]
		switch {
		case known && name == "":
			n.r.wrong(at(block, body, field, i), "Host without an "+n.what, "%s names host %q, whose block has no %s.", field, h, strings.ToLower(n.what))
		case known:
			out = append(out, name)
		case n.valid(h):
			out = append(out, h)
		default:
			n.r.wrong(at(block, body, field, i), "Unknown host", "%s names %q, which is neither a host block nor an %s.", field, h, n.what)
		}
	}
	return out
}

func (r *reader) targets(in *file, c *Config) {
	iqns := hostNames{r, map[string]string{}, "IQN", ValidIQN}
	for _, h := range c.Hosts {
		iqns.byName[h.Name] = h.IQN
	}
	names := names{r: r, kind: "target"}
	for _, t := range in.Targets {
		names.add(t.IQN, t.Label)
		if !ValidIQN(t.IQN) {
			r.wrong(t.Label, "Invalid IQN", "%s", iqnHelp(t.IQN))
		}
		out := Target{
			Pos: pos(t.Range), IQN: t.IQN, Tenant: orDefault(t.Tenant, "default"), Mode: orDefault(t.Mode, "redirect"),
			AllowAnyHost: t.AllowAnyHost, Hosts: iqns.resolve(t.Range, t.Body, "hosts", t.Hosts),
		}
		if out.Mode != "redirect" { // alua is for several nodes, which do not serve one target yet
			r.wrong(at(t.Range, t.Body, "mode"), "Invalid mode", "mode must be \"redirect\"; it is %q.", t.Mode)
		}
		if t.CHAP != nil {
			out.CHAP = r.chap(t.CHAP)
		}
		seen := map[uint16]bool{}
		for _, n := range t.LUNs {
			var lun uint16
			if _, err := fmt.Sscanf(n.LUN, "%d", &lun); err != nil || lun > maxLUN || fmt.Sprint(lun) != n.LUN {
				r.wrong(n.Label, "Invalid LUN", "A lun block is named by its number, from 0 to %d; it is %q.", maxLUN, n.LUN)
			}
			if seen[lun] {
				r.wrong(n.Label, "LUN used twice", "LUN %d is used twice in %s.", lun, t.IQN)
			}
			seen[lun] = true
			out.LUNs = append(out.LUNs, LUN{
				Pos: pos(n.Range), LUN: lun, Volume: n.Volume, VisibleTo: iqns.resolve(n.Range, n.Body, "visible_to", n.VisibleTo),
			})
		}
		c.Targets = append(c.Targets, out)
	}
}

// maxLUN is the highest number of a logical unit.
const maxLUN = 1023

func (r *reader) chap(b *chapBlock) *CHAP {
	out := &CHAP{User: b.User, MutualUser: b.MutualUser}
	out.Secret = r.secret(b, "secret", b.Secret, b.SecretFile)
	out.MutualSecret = r.secret(b, "mutual_secret", b.MutualSecret, b.MutualSecretFile)
	if b.Secret == "" && b.SecretFile == "" {
		r.wrong(b.Range, "Secret missing", "A chap block has the secret of the initiators: secret_file = \"...\", or secret = \"...\".")
	}
	if b.MutualUser != "" && b.MutualSecret == "" && b.MutualSecretFile == "" {
		r.wrong(at(b.Range, b.Body, "mutual_user"), "Secret missing", "mutual_user goes with mutual_secret_file or mutual_secret.")
	}
	if out.Secret != "" && out.Secret == out.MutualSecret {
		r.wrong(b.Range, "One secret for both", "The secret that the target proves to know must be another one than that of the initiators.")
	}
	return out
}

// secret is the value of an attribute, or the content of the file that another names. What is told about it
// does not tell it.
func (r *reader) secret(b *chapBlock, name, value, file string) Secret {
	where := at(b.Range, b.Body, name)
	if file != "" {
		where = at(b.Range, b.Body, name+"_file")
		if value != "" {
			r.wrong(where, "Two secrets", "Give %s or %s_file, not both.", name, name)
			return ""
		}
		content, err := os.ReadFile(r.path(file))
		if err != nil {
			r.wrong(where, "Secret not readable", "%v.", err)
			return ""
		}
		value = strings.TrimRight(string(content), "\r\n")
	} else if value == "" {
		return ""
	}
	if len(value) < 12 || len(value) > 255 {
		r.wrong(where, "Invalid secret", "A secret has 12 to 255 bytes; this one has %d.", len(value))
	}
	return Secret(value)
}
