package nvmf

import "github.com/mooring-io/mooring/sdk/nvme"

// MaxDescriptors is how many keyed descriptors a command may have at most, if as many fit a capsule.
const MaxDescriptors = 16

// maxDescriptors is what MSDBD says: there is one descriptor, where no segment of more can come in a capsule.
func (q *Queue) maxDescriptors() int {
	if q.info.TransportType != nvme.TransportRDMA {
		return 1
	}
	return max(1, min(MaxDescriptors, q.info.InCapsuleData/nvme.SGLSize))
}

// checkSGL judges the data pointer of a command that moves n bytes, and notes its keyed descriptors. They may be
// longer than the data (SGLS bit 18). Base 4.1.2
func (q *Queue) checkSGL(c *Command, dir Transfer, n int) nvme.Status {
	sgl := c.SQE.SGL1()
	if sgl.Is(nvme.SGLLastSegment, nvme.SGLOffset) && q.info.TransportType == nvme.TransportRDMA {
		return q.checkSegment(c, sgl, n)
	}
	if !q.sglTypeAllowed(sgl) {
		return nvme.StatusInvalidSGLType.WithDNR()
	}
	inCapsule := sgl.Is(nvme.SGLDataBlock, nvme.SGLOffset)
	switch {
	case inCapsule && dir != TransferFromHost:
		return nvme.StatusInvalidSGLType.WithDNR() // a capsule carries data one way only
	case inCapsule && (sgl.Address != 0 || int64(sgl.Length) > int64(c.InCapsule)):
		return nvme.StatusInvalidSGLOffset.WithDNR() // ICDOFF is 0
	case !inCapsule && c.InCapsule > 0:
		return nvme.StatusInvalidField.WithDNR() // data that no descriptor names
	case int64(sgl.Length) < int64(n):
		return nvme.StatusInvalidSGLLength.WithDNR()
	}
	if sgl.Type == nvme.SGLKeyedDataBlock {
		c.Descriptors = append(c.Descriptors[:0], sgl)
	}
	return nvme.StatusSuccess
}

// checkSegment judges descriptors that came in the capsule: the last segment, of keyed data blocks. Those of no
// length move nothing. Base 4.1.2, NVMe/RDMA 3.3.2
func (q *Queue) checkSegment(c *Command, sgl nvme.SGL, n int) nvme.Status {
	count := int(sgl.Length / nvme.SGLSize)
	switch {
	case sgl.Address != 0:
		return nvme.StatusInvalidSGLOffset.WithDNR() // ICDOFF is 0
	case sgl.Length%nvme.SGLSize != 0, count == 0, int64(sgl.Length) > int64(len(c.Segment)):
		return nvme.StatusInvalidSGLSegment.WithDNR()
	case count > q.maxDescriptors():
		return nvme.StatusInvalidSGLCount.WithDNR()
	}
	c.Descriptors = c.Descriptors[:0]
	total := 0
	for i := range count {
		d, _, err := nvme.ParseSGL(c.Segment[i*nvme.SGLSize:])
		if err != nil || d.Type != nvme.SGLKeyedDataBlock || !q.sglTypeAllowed(d) {
			return nvme.StatusInvalidSGLType.WithDNR()
		}
		total += int(d.Length)
		c.Descriptors = append(c.Descriptors, d)
	}
	if total < n {
		return nvme.StatusInvalidSGLLength.WithDNR()
	}
	return nvme.StatusSuccess
}

// sglTypeAllowed knows what each transport can move. NVMe/TCP 3.3.2, NVMe/RDMA 3.3.2
func (q *Queue) sglTypeAllowed(s nvme.SGL) bool {
	switch {
	case s.Is(nvme.SGLDataBlock, nvme.SGLOffset):
		return true
	case q.info.TransportType == nvme.TransportRDMA:
		return s.Is(nvme.SGLKeyedDataBlock, nvme.SGLAddress) || s.Is(nvme.SGLKeyedDataBlock, nvme.SGLInvalidateKey)
	}
	return s.Is(nvme.SGLTransportData, nvme.SGLTransport)
}

// move plans the transfer of n bytes and gives the command its buffer. n is at most
// q.maxTransfer.
func (q *Queue) move(c *Command, dir Transfer, n int) nvme.Status {
	return q.moveWith(c, dir, n, n)
}

// moveWith is move with a buffer of room bytes, of which the data are the first n.
func (q *Queue) moveWith(c *Command, dir Transfer, n, room int) nvme.Status {
	if st := q.checkSGL(c, dir, n); !st.OK() {
		return st
	}
	c.Transfer, c.Length = dir, n
	given := dir == TransferFromHost && c.Data.Len() >= n
	if given {
		c.Data = c.Data.Slice(0, n)
	} else {
		c.Data = c.Data.Slice(0, 0)
	}
	if !given || room > n {
		q.takeBuffer(c, room)
	}
	return nvme.StatusSuccess
}
