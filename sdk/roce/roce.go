// Package roce reads from sysfs which RDMA devices a machine has, what their ports are, and by which
// addresses they are reached. It owns no device, and judges nothing.
//
// A RoCE port is reached by an address when its GID table has that address: the kernel enters those of the
// network interface below, and of the VLANs on it. This is what the connection manager goes by, too.
package roce

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
)

// GIDType is how a GID's packets look on the wire, in the kernel's words.
type GIDType string

// Types of GIDs.
const (
	RoCEv1 GIDType = "IB/RoCE v1" // an InfiniBand port's GIDs are said to be this, too
	RoCEv2 GIDType = "RoCE v2"
)

// GID is one entry of a port's table.
type GID struct {
	Index     int
	Addr      netip.Addr // IPv4 where it is a mapped one
	Type      GIDType
	Interface string // network interface that has Addr; empty if there is none
}

// Port is a port of a device.
type Port struct {
	Number    int    // from 1
	LinkLayer string // Ethernet or InfiniBand
	State     string // ACTIVE, DOWN, …
	GIDs      []GID
}

// Device is an RDMA device.
type Device struct {
	Name  string
	IWARP bool
	// Parent is the network interface on which a device is made by software (rdma_rxe, siw); empty
	// for a card.
	Parent string
	Ports  []Port
}

// Interface is the network interface of the port, or empty if no GID tells.
func (p Port) Interface() string {
	for _, g := range p.GIDs {
		if g.Interface != "" {
			return g.Interface
		}
	}
	return ""
}

// Addrs are the addresses by which RoCE v2 reaches the device, in the order of its table. Those that are
// valid on their link alone come last.
func (d Device) Addrs() []netip.Addr {
	var routed, local []netip.Addr
	for _, p := range d.Ports {
		for _, g := range p.GIDs {
			switch {
			case d.IWARP || p.LinkLayer != "Ethernet" || g.Type != RoCEv2:
			case g.Addr.IsLinkLocalUnicast():
				local = append(local, g.Addr.WithZone(g.Interface))
			default:
				routed = append(routed, g.Addr)
			}
		}
	}
	return append(routed, local...)
}

// Devices reads all devices from sys, which is /sys, by name. None at all is no error.
func Devices(sys fs.FS) ([]Device, error) {
	const class = "class/infiniband"
	entries, err := fs.ReadDir(sys, class)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list RDMA devices: %w", err)
	}
	var out []Device
	for _, e := range entries {
		d, err := device(sys, path.Join(class, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("read RDMA device %s: %w", e.Name(), err)
		}
		out = append(out, d)
	}
	return out, nil
}

func device(sys fs.FS, dir string) (Device, error) {
	d := Device{Name: path.Base(dir)}
	kind, err := word(sys, path.Join(dir, "node_type"))
	if err != nil {
		return d, err
	}
	d.IWARP = kind == "RNIC"
	d.Parent, _ = word(sys, path.Join(dir, "parent")) // cards have none
	ports, err := fs.ReadDir(sys, path.Join(dir, "ports"))
	if err != nil {
		return d, err
	}
	for _, e := range ports {
		p, err := port(sys, path.Join(dir, "ports", e.Name()))
		if err != nil {
			return d, err
		}
		d.Ports = append(d.Ports, p)
	}
	return d, nil
}

func port(sys fs.FS, dir string) (p Port, err error) {
	if p.Number, err = strconv.Atoi(path.Base(dir)); err != nil {
		return p, err
	}
	if p.LinkLayer, err = word(sys, path.Join(dir, "link_layer")); err != nil {
		return p, err
	}
	if p.State, err = word(sys, path.Join(dir, "state")); err != nil {
		return p, err
	}
	gids, err := fs.ReadDir(sys, path.Join(dir, "gids"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // an iWARP port may have no table
		return p, err
	}
	for _, e := range gids {
		text, err := word(sys, path.Join(dir, "gids", e.Name()))
		addr, parseErr := netip.ParseAddr(text)
		index, indexErr := strconv.Atoi(e.Name())
		if err != nil || parseErr != nil || indexErr != nil || addr.IsUnspecified() {
			continue // a free entry
		}
		g := GID{Index: index, Addr: addr.Unmap()}
		typ, _ := word(sys, path.Join(dir, "gid_attrs/types", e.Name()))
		g.Type = GIDType(typ)
		g.Interface, _ = word(sys, path.Join(dir, "gid_attrs/ndevs", e.Name())) // none at an InfiniBand port
		p.GIDs = append(p.GIDs, g)
	}
	slices.SortFunc(p.GIDs, func(a, b GID) int { return a.Index - b.Index })
	return p, nil
}

// word reads a file of one line; of "4: ACTIVE" it is what follows the number.
func word(sys fs.FS, name string) (string, error) {
	b, err := fs.ReadFile(sys, name)
	if err != nil {
		return "", err
	}
	text := strings.TrimSpace(string(b))
	if number, name, ok := strings.Cut(text, ": "); ok {
		if _, err := strconv.Atoi(number); err == nil {
			return name, nil
		}
	}
	return text, nil
}
