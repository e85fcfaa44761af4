package iscsi

// AsyncEvent is what an Asynchronous Message tells. 11.9.1
type AsyncEvent uint8

// The events.
const (
	AsyncSCSI            AsyncEvent = 0 // the data segment is sense data with its length in front
	AsyncLogout          AsyncEvent = 1 // the initiator is to log out within Parameter3 seconds
	AsyncDropConnection  AsyncEvent = 2 // the target drops connection Parameter1
	AsyncDropSession     AsyncEvent = 3 // the target drops all connections of the session
	AsyncRenegotiate     AsyncEvent = 4
	AsyncTasksTerminated AsyncEvent = 5
	AsyncVendor          AsyncEvent = 255
)

// asyncParameters is where the parameters begin.
const asyncParameters = 38

// AsyncMessage is an Asynchronous Message PDU. 11.9
type AsyncMessage struct {
	Window
	LUN        LUN // of AsyncSCSI
	Event      AsyncEvent
	VendorCode uint8
	Parameter1 uint16
	Parameter2 uint16 // Time2Wait, seconds, of the drops
	Parameter3 uint16 // Time2Retain, seconds, of the drops
	DataBytes  int
}

// ParseAsyncMessage decodes the first HeaderSize bytes of b.
func ParseAsyncMessage(b []byte) (AsyncMessage, int, error) {
	if len(b) < HeaderSize {
		return AsyncMessage{}, 0, short(OpAsyncMessage, b)
	}
	return AsyncMessage{
		Window: parseWindow(b), LUN: LUN(b[8:16]), Event: AsyncEvent(b[36]), VendorCode: b[37],
		Parameter1: be.Uint16(b[asyncParameters:]), Parameter2: be.Uint16(b[asyncParameters+2:]), Parameter3: be.Uint16(b[asyncParameters+4:]),
		DataBytes: int(b[5])<<16 | int(b[6])<<8 | int(b[7]),
	}, HeaderSize, nil
}

// Append appends the header.
func (a *AsyncMessage) Append(b []byte) []byte {
	b, p := begin(b, OpAsyncMessage, finalBit, a.DataBytes)
	copy(p[8:], a.LUN[:])
	be.PutUint32(p[16:], uint32(NoTag))
	a.put(p)
	p[36], p[37] = byte(a.Event), a.VendorCode
	be.PutUint16(p[asyncParameters:], a.Parameter1)
	be.PutUint16(p[asyncParameters+2:], a.Parameter2)
	be.PutUint16(p[asyncParameters+4:], a.Parameter3)
	return b
}

// Len is HeaderSize.
func (a *AsyncMessage) Len() int { return HeaderSize }
