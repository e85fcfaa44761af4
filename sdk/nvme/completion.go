package nvme

// CompletionSize is the length of a completion queue entry in bytes. Base 3.3.3.2
const CompletionSize = 16

// Completion is a completion queue entry in wire form. A *Completion is a view of the buffer
// it was parsed from, like Command. Base 3.3.3.2
type Completion [CompletionSize]byte

// MakeCompletion returns a completion without result. Over fabrics the phase tag and SQID are
// reserved and stay zero. Base 3.3.3.2
func MakeCompletion(cid CommandID, sqhd uint16, st Status) Completion {
	var c Completion
	le.PutUint16(c[8:], sqhd)
	le.PutUint16(c[12:], uint16(cid))
	le.PutUint16(c[14:], uint16(st)<<1)
	return c
}

// ParseCompletion returns the completion in the first 16 bytes of b, aliasing b.
func ParseCompletion(b []byte) (*Completion, int, error) {
	if len(b) < CompletionSize {
		return nil, 0, need("completion", b, CompletionSize)
	}
	return (*Completion)(b), CompletionSize, nil
}

// Append appends the wire form.
func (c *Completion) Append(b []byte) []byte { return append(b, c[:]...) }

// Len is CompletionSize.
func (c *Completion) Len() int { return CompletionSize }

// DW0 returns the command-specific dword.
func (c *Completion) DW0() uint32 { return le.Uint32(c[0:]) }

// SetDW0 stores the command-specific dword.
func (c *Completion) SetDW0(v uint32) { le.PutUint32(c[0:], v) }

// Result64 returns DW0 and DW1 together: the value of a Property Get.
func (c *Completion) Result64() uint64 { return le.Uint64(c[0:]) }

// SetResult64 stores DW0 and DW1.
func (c *Completion) SetResult64(v uint64) { le.PutUint64(c[0:], v) }

// SQHD returns the submission queue head pointer, an index into the queue. Base 3.3.3.2.1
func (c *Completion) SQHD() uint16 { return le.Uint16(c[8:]) }

// SetSQHD stores the submission queue head pointer.
func (c *Completion) SetSQHD(v uint16) { le.PutUint16(c[8:], v) }

// SQID returns the submission queue identifier; reserved over fabrics.
func (c *Completion) SQID() QueueID { return QueueID(le.Uint16(c[10:])) }

// CID returns the identifier of the command that this completes.
func (c *Completion) CID() CommandID { return CommandID(le.Uint16(c[12:])) }

// SetCID stores the identifier of the command.
func (c *Completion) SetCID(id CommandID) { le.PutUint16(c[12:], uint16(id)) }

// Status returns the status field with its flags.
func (c *Completion) Status() Status { return Status(le.Uint16(c[14:]) >> 1) }

// SetStatus stores the status field and leaves the phase tag.
func (c *Completion) SetStatus(s Status) { le.PutUint16(c[14:], uint16(s)<<1|uint16(c[14]&1)) }
