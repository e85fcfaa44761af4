package nvmf

import "github.com/mooring-io/mooring/sdk/nvme"

// checkSGL judges the data pointer of a command that moves n bytes. There is one descriptor
// (MSDBD 1); it may be longer than the data (SGLS bit 18). Base 4.1.2
func (q *Queue) checkSGL(c *Command, dir Transfer, n int) nvme.Status {
	sgl := c.SQE.SGL1()
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
