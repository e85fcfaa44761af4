package rdma

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ErrNoDCB is returned for a network interface that does not say how its data centre bridging is set.
var ErrNoDCB = errors.New("the interface knows no data centre bridging")

// Of linux/dcbnl.h.
const (
	dcbIEEEGet = 21 // DCB_CMD_IEEE_GET
	dcbIfname  = 1  // DCB_ATTR_IFNAME
	dcbIEEE    = 13 // DCB_ATTR_IEEE
	dcbIEEEPFC = 2  // DCB_ATTR_IEEE_PFC: struct ieee_pfc, whose second byte has a bit for each priority
)

// dcbMessage is struct dcbmsg.
type dcbMessage struct{ command byte }

func (dcbMessage) Len() int            { return 4 }
func (m dcbMessage) Serialize() []byte { return []byte{unix.AF_UNSPEC, m.command, 0, 0} }

// PFC asks the kernel for which priorities an interface has priority flow control (IEEE 802.1Qbb): a bit each.
func PFC(iface string) (priorities uint8, err error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETDCB, 0)
	req.AddData(dcbMessage{dcbIEEEGet})
	req.AddData(nl.NewRtAttr(dcbIfname, nl.ZeroTerminated(iface)))
	msgs, err := req.Execute(unix.NETLINK_ROUTE, 0)
	switch {
	case errors.Is(err, unix.EOPNOTSUPP), err == nil && len(msgs) == 0:
		return 0, ErrNoDCB
	case err != nil:
		return 0, fmt.Errorf("ask for the data centre bridging of %s: %w", iface, err)
	}
	return parsePFC(msgs[0])
}

func parsePFC(b []byte) (uint8, error) {
	ieee, err := attribute(b[min(len(b), dcbMessage{}.Len()):], dcbIEEE)
	if err != nil {
		return 0, err
	}
	pfc, err := attribute(ieee, dcbIEEEPFC)
	if err != nil {
		return 0, err
	}
	if len(pfc) < 2 {
		return 0, ErrNoDCB
	}
	return pfc[1], nil
}

// attribute finds one by its type. Attributes have a length, which counts its own four bytes, and a type, and
// begin at multiples of four.
func attribute(b []byte, typ uint16) ([]byte, error) {
	for len(b) >= unix.SizeofRtAttr {
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofRtAttr || size > len(b) {
			break
		}
		if binary.NativeEndian.Uint16(b[2:])&^unix.NLA_F_NESTED == typ {
			return b[unix.SizeofRtAttr:size], nil
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return nil, ErrNoDCB
}
