// Package cluster owns how nodes come together: the token that lets one join, the
// exchange in which it gets its certificate, and the port on which agents speak to
// each other. It does not own who is a member (package meta), the keys (package cert)
// nor the votes (package quorum).
package cluster

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/google/uuid"
)

// Token is all that a node needs to join: where, whom to believe, and the one-time
// secret by which it is believed. Whoever has it can join until it is used or expires.
type Token struct {
	Cluster     uuid.UUID `json:"c"`
	Address     string    `json:"a"` // host:port of the agent that admits
	Fingerprint string    `json:"f"` // of the cluster's CA
	ID          string    `json:"i"`
	Secret      string    `json:"s"`
}

// tokenPrefix names the kind and version, for whoever finds one.
const tokenPrefix = "mooring-join-1."

// String is the token as it is handed on: one word.
func (t Token) String() string {
	b, err := json.Marshal(t)
	if err != nil {
		panic(err) // plain fields
	}
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(b)
}

// ParseToken reads what String wrote.
func ParseToken(s string) (Token, error) {
	var t Token
	body, ok := strings.CutPrefix(strings.TrimSpace(s), tokenPrefix)
	if !ok {
		return t, fmt.Errorf("it does not begin with %q", tokenPrefix)
	}
	b, err := base64.RawURLEncoding.DecodeString(body)
	if err == nil {
		err = json.Unmarshal(b, &t)
	}
	if err != nil {
		return t, errors.New("it is damaged or cut short")
	}
	if _, _, err := net.SplitHostPort(t.Address); err != nil || t.Cluster == uuid.Nil || len(t.Fingerprint) != 64 || t.ID == "" || t.Secret == "" {
		return t, errors.New("it is damaged: a part is missing")
	}
	return t, nil
}

// AgentAddress is where a node's agent listens for other agents, by the node's data
// address (host:port): the next port.
func AgentAddress(data string) (string, error) {
	a, err := netip.ParseAddrPort(data)
	if err != nil {
		return "", fmt.Errorf("the node's address: %w", err)
	}
	return netip.AddrPortFrom(a.Addr(), a.Port()+1).String(), nil
}
