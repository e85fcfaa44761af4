package nvme

// Attributes of a Dataset Management. NVM 3.2.3
const (
	DatasetIntegralRead  uint8 = 1 << 0 // IDR
	DatasetIntegralWrite uint8 = 1 << 1 // IDW
	DatasetDeallocate    uint8 = 1 << 2 // AD
)

// MaxDatasetRanges is the most ranges of one Dataset Management.
const MaxDatasetRanges = 256

// DatasetManagement is the command; its data is Ranges DatasetRanges. NVM 3.2.3
type DatasetManagement struct {
	NSID       NSID
	Ranges     int   // NR as a count, 1 to 256
	Attributes uint8 // the Dataset bits
}

// ParseDatasetManagement unpacks the command; the caller has looked at the opcode.
func ParseDatasetManagement(c *Command) DatasetManagement {
	return DatasetManagement{NSID: c.NSID(), Ranges: int(uint8(c.CDW10())) + 1, Attributes: uint8(c.CDW11() & 7)}
}

// Command packs it, without CID and data pointer.
func (d DatasetManagement) Command() Command {
	c := command(IODatasetManagement, d.NSID)
	c.SetCDW10(uint32(max(d.Ranges, 1)-1) & 0xff)
	c.SetCDW11(uint32(d.Attributes & 7))
	return c
}

// DatasetRangeSize is the length of a range in bytes.
const DatasetRangeSize = 16

// DatasetRange is one range of a Dataset Management. NVM 3.2.3.1
type DatasetRange struct {
	Attributes uint32 // CATTR, hints
	Blocks     uint32 // a count; 0 is an empty range
	Start      LBA
}

// ParseDatasetRange decodes the range in the first 16 bytes of b.
func ParseDatasetRange(b []byte) (DatasetRange, int, error) {
	if err := need("dataset range", b, DatasetRangeSize); err != nil {
		return DatasetRange{}, 0, err
	}
	return DatasetRange{le.Uint32(b), le.Uint32(b[4:]), LBA(le.Uint64(b[8:]))}, DatasetRangeSize, nil
}

// Append appends the wire form.
func (r DatasetRange) Append(b []byte) []byte {
	b = le.AppendUint32(b, r.Attributes)
	b = le.AppendUint32(b, r.Blocks)
	return le.AppendUint64(b, uint64(r.Start))
}

// Len is DatasetRangeSize.
func (r DatasetRange) Len() int { return DatasetRangeSize }
