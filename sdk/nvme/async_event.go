package nvme

// AsyncEvents is a set of asynchronous events: OAES of Identify Controller, and the Asynchronous
// Event Configuration feature, whose bits 7:0 are SMART critical warnings. Base 5.27.1.8
type AsyncEvents uint32

// Events.
const (
	EventsSMARTMask        AsyncEvents = 0xff
	EventsNamespaceChange  AsyncEvents = 1 << 8
	EventsFirmware         AsyncEvents = 1 << 9
	EventsTelemetry        AsyncEvents = 1 << 10
	EventsANAChange        AsyncEvents = 1 << 11
	EventsPredictableDelay AsyncEvents = 1 << 12
	EventsLBAStatus        AsyncEvents = 1 << 13
	EventsEnduranceGroup   AsyncEvents = 1 << 14
	EventsShutdown         AsyncEvents = 1 << 15
	EventsDiscoveryChange  AsyncEvents = 1 << 31
)

// EventType is the type of an asynchronous event. Base 5.2.1
type EventType uint8

// Event types.
const (
	EventError     EventType = 0
	EventSMART     EventType = 1
	EventNotice    EventType = 2
	EventImmediate EventType = 3
	EventIOCommand EventType = 6 // I/O command set specific
	EventVendor    EventType = 7
)

// AsyncEvent is DW0 of a completed Asynchronous Event Request. It stays masked until its log
// page is read. Base 5.2.1
type AsyncEvent struct {
	Type EventType
	Info uint8
	LID  LogID // the page that tells more
}

// Events of this target. Base 5.2.1
var (
	EventInternalError  = AsyncEvent{EventError, 0x03, LogError} // persistent internal error
	EventTransientError = AsyncEvent{EventError, 0x04, LogError}
	EventReliability    = AsyncEvent{EventSMART, 0x00, LogSMART}
	EventTemperature    = AsyncEvent{EventSMART, 0x01, LogSMART}
	EventSpare          = AsyncEvent{EventSMART, 0x02, LogSMART}
	EventNSAttribute    = AsyncEvent{EventNotice, 0x00, LogChangedNamespaces}
	EventANAChange      = AsyncEvent{EventNotice, 0x03, LogANA}
	EventDiscovery      = AsyncEvent{EventNotice, 0xf0, LogDiscovery}
	EventReservation    = AsyncEvent{EventIOCommand, 0x00, LogReservationNotification}
)

// ParseAsyncEvent unpacks DW0.
func ParseAsyncEvent(dw0 uint32) AsyncEvent {
	return AsyncEvent{Type: EventType(dw0 & 7), Info: uint8(dw0 >> 8), LID: LogID(dw0 >> 16)}
}

// DW0 packs it for a completion.
func (e AsyncEvent) DW0() uint32 {
	return uint32(e.Type&7) | uint32(e.Info)<<8 | uint32(e.LID)<<16
}
