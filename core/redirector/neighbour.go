package redirector

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	probes   = 3 // one may get lost
	probeFor = 100 * time.Millisecond
)

// probe asks the network of an interface whether another machine has the address, by ARP probes
// (RFC 5227 2.1.1) or as for duplicate address detection (RFC 4862 5.4.2), and returns that one's hardware
// address; nil if none says so within probes × probeFor.
func probe(at *netlink.LinkAttrs, ip netip.Addr) (net.HardwareAddr, error) {
	s, err := open(at, ip)
	if err != nil || s == nil {
		return nil, err
	}
	defer unix.Close(s.fd)
	to, packet := broadcast, arp(at.HardwareAddr, netip.IPv4Unspecified(), ip)
	if ip.Is6() {
		a := ip.As16()
		to = net.HardwareAddr{0x33, 0x33, 0xff, a[13], a[14], a[15]} // RFC 2464 7
		group := netip.AddrFrom16([16]byte{0xff, 2, 11: 1, 12: 0xff, 13: a[13], 14: a[14], 15: a[15]})
		packet = neighbour(solicitation, netip.IPv6Unspecified(), group, ip, nil)
	}
	for range probes {
		if err := s.send(to, packet); err != nil {
			return nil, err
		}
		for end := time.Now().Add(probeFor); ; {
			mac, err := s.claim(ip, time.Until(end))
			if err != nil {
				return nil, err
			}
			if mac == nil {
				break
			}
			if !bytes.Equal(mac, at.HardwareAddr) {
				return mac, nil
			}
		}
	}
	return nil, nil
}

// announce tells the network that an address is at this interface now: gratuitous ARP (RFC 5227 2.3), or
// an unsolicited neighbour advertisement (RFC 4861 7.2.6). Netlink cannot; a packet socket does.
func announce(at *netlink.LinkAttrs, ip netip.Addr) error {
	s, err := open(at, ip)
	if err != nil || s == nil {
		return err
	}
	defer unix.Close(s.fd)
	to, packet := broadcast, arp(at.HardwareAddr, ip, ip)
	if ip.Is6() {
		to, packet = net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, neighbour(advertisement, ip, netip.IPv6LinkLocalAllNodes(), ip, at.HardwareAddr)
	}
	for range 3 { // one may get lost
		if err := s.send(to, packet); err != nil {
			return err
		}
	}
	return nil
}

var broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// socket sends and receives packets of ARP or IPv6 at one interface.
type socket struct {
	fd    int
	at    *netlink.LinkAttrs
	proto uint16 // in network byte order
}

// open returns nil for an interface where nobody keeps neighbours.
func open(at *netlink.LinkAttrs, ip netip.Addr) (*socket, error) {
	if at.Flags&net.FlagLoopback != 0 || len(at.HardwareAddr) != 6 {
		return nil, nil
	}
	proto := uint16(unix.ETH_P_ARP)
	if ip.Is6() {
		proto = unix.ETH_P_IPV6
	}
	s := &socket{at: at, proto: proto<<8 | proto>>8}
	var err error
	if s.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	if err := unix.Bind(s.fd, &unix.SockaddrLinklayer{Protocol: s.proto, Ifindex: at.Index}); err != nil {
		unix.Close(s.fd)
		return nil, fmt.Errorf("packet socket of interface %s: %w", at.Name, err)
	}
	return s, nil
}

func (s *socket) send(to net.HardwareAddr, packet []byte) error {
	a := &unix.SockaddrLinklayer{Protocol: s.proto, Ifindex: s.at.Index, Halen: 6}
	copy(a.Addr[:], to)
	if err := unix.Sendto(s.fd, packet, 0, a); err != nil {
		return fmt.Errorf("send at interface %s: %w", s.at.Name, err)
	}
	return nil
}

// claim waits for a packet that says that somebody has the address, and returns who; nil when within has
// passed.
func (s *socket) claim(ip netip.Addr, within time.Duration) (net.HardwareAddr, error) {
	b := make([]byte, 256)
	for end := time.Now().Add(within); ; {
		left := time.Until(end)
		if left < time.Millisecond {
			return nil, nil
		}
		p := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, int(left.Milliseconds()))
		if errors.Is(err, unix.EINTR) || err == nil && n == 0 {
			continue
		}
		if err == nil {
			var from unix.Sockaddr
			if n, from, err = unix.Recvfrom(s.fd, b, unix.MSG_DONTWAIT); err == nil {
				if l, ok := from.(*unix.SockaddrLinklayer); ok && claims(b[:n], ip) {
					return net.HardwareAddr(bytes.Clone(l.Addr[:6])), nil
				}
				continue
			}
		}
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return nil, fmt.Errorf("receive at interface %s: %w", s.at.Name, err)
		}
	}
}

// claims says whether a packet tells that its sender has the address: ARP of any kind from it, or a neighbour
// advertisement for it.
func claims(packet []byte, ip netip.Addr) bool {
	a := ip.AsSlice()
	if ip.Is4() {
		return len(packet) >= 28 && bytes.Equal(packet[:6], arpHeader) && bytes.Equal(packet[14:18], a)
	}
	return len(packet) >= 64 && packet[6] == unix.IPPROTO_ICMPV6 && packet[40] == advertisement && bytes.Equal(packet[48:64], a)
}

var arpHeader = []byte{0, 1, 8, 0, 6, 4} // Ethernet, IPv4

// arp is an ARP request for an address. RFC 826
func arp(mac net.HardwareAddr, from, ip netip.Addr) []byte {
	b := append(bytes.Clone(arpHeader), 0, 1)
	b = append(append(b, mac...), from.AsSlice()...)
	b = append(b, make([]byte, 6)...)
	return append(b, ip.AsSlice()...)
}

// ICMPv6 types. RFC 4861 4.3, 4.4
const (
	solicitation  = 135
	advertisement = 136
)

// neighbour is a neighbour solicitation or advertisement for a target in its IPv6 packet, with the target's
// link-layer address if there is one.
func neighbour(kind byte, from, to, target netip.Addr, mac net.HardwareAddr) []byte {
	icmp := []byte{kind, 0, 0, 0, 0, 0, 0, 0}
	icmp = append(icmp, target.AsSlice()...)
	if mac != nil {
		icmp[4] = 0x20 // override what was known
		icmp = append(append(icmp, 2, 1), mac...)
	}
	sum := uint32(len(icmp)) + unix.IPPROTO_ICMPV6
	for _, part := range [][]byte{from.AsSlice(), to.AsSlice(), icmp} {
		for i := 0; i < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(icmp[2:], ^uint16(sum))
	b := []byte{0x60, 0, 0, 0, 0, byte(len(icmp)), unix.IPPROTO_ICMPV6, 255}
	return append(append(append(b, from.AsSlice()...), to.AsSlice()...), icmp...)
}
