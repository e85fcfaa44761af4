//go:build !rdma

package verbs

import "net/netip"

// See verbs.go for what these are. None can be made here: OpenChannel and NewDomain fail.
type (
	Channel struct{}
	ID      struct{ User any }
	Domain  struct{}
)

func OpenChannel() (*Channel, error)                { return nil, ErrAbsent }
func (*Channel) FD() int                            { return -1 }
func (*Channel) Close()                             {}
func (*Channel) Next() (Event, bool, error)         { return Event{}, false, ErrAbsent }
func (*Channel) Listen(netip.AddrPort) (*ID, error) { return nil, ErrAbsent }
func (*Channel) Adopt(*ID) error                    { return ErrAbsent }

func (*ID) Local() netip.AddrPort                   { return netip.AddrPort{} }
func (*ID) Peer() netip.AddrPort                    { return netip.AddrPort{} }
func (*ID) Device() uintptr                         { return 0 }
func (*ID) Link() (Link, error)                     { return Link{}, ErrAbsent }
func (*ID) GIDType() (int, error)                   { return 0, ErrAbsent }
func (*ID) Limits() (Limits, error)                 { return Limits{}, ErrAbsent }
func (*ID) Async() (int, error)                     { return -1, ErrAbsent }
func NextAsync(uintptr) (int, uint32, bool)         { return 0, 0, false }
func (*ID) CreateQP(*Domain, int, int) (int, error) { return 0, ErrAbsent }
func (*ID) QP() uint32                              { return 0 }
func (*ID) Accept([]byte, int, int) error           { return ErrAbsent }
func (*ID) Reject([]byte) error                     { return ErrAbsent }
func (*ID) Disconnect() error                       { return ErrAbsent }
func (*ID) Close()                                  {}
func (*ID) Post([]WR) (int, error)                  { return 0, ErrAbsent }
func NewDomain(*ID, DomainConfig) (*Domain, error)  { return nil, ErrAbsent }
func (*Domain) FD() int                             { return -1 }
func (*Domain) Wake() error                         { return ErrAbsent }
func (*Domain) Poll([]Completion) (int, error)      { return 0, ErrAbsent }
func (*Domain) Receive([]WR) (int, error)           { return 0, ErrAbsent }
func (*Domain) Close() error                        { return nil }
