package nvmetcp

import "github.com/mooring-io/mooring/sdk/nvme"

// CapsuleCmd is the header of a command capsule. Command aliases the buffer it was parsed from.
// TCP 3.6.2.6
type CapsuleCmd struct {
	Header
	Command *nvme.Command
}

// ParseCapsuleCmd decodes the header in the first 72 bytes of b, aliasing b.
func ParseCapsuleCmd(b []byte) (CapsuleCmd, int, error) {
	if len(b) < CapsuleCmdSize {
		return CapsuleCmd{}, 0, truncated("CapsuleCmd", b, CapsuleCmdSize)
	}
	return CapsuleCmd{parseHeader(b), (*nvme.Command)(b[HeaderSize:])}, CapsuleCmdSize, nil
}

// Append appends the header as it stands; Link.AppendCapsuleCmd computes it.
func (p CapsuleCmd) Append(b []byte) []byte { return p.Command.Append(p.Header.Append(b)) }

// Len is CapsuleCmdSize.
func (p CapsuleCmd) Len() int { return CapsuleCmdSize }

// CapsuleResp is a response capsule without its digest. Completion aliases the buffer it was
// parsed from. TCP 3.6.2.7
type CapsuleResp struct {
	Header
	Completion *nvme.Completion
}

// ParseCapsuleResp decodes the header in the first 24 bytes of b, aliasing b.
func ParseCapsuleResp(b []byte) (CapsuleResp, int, error) {
	if len(b) < CapsuleRespSize {
		return CapsuleResp{}, 0, truncated("CapsuleResp", b, CapsuleRespSize)
	}
	return CapsuleResp{parseHeader(b), (*nvme.Completion)(b[HeaderSize:])}, CapsuleRespSize, nil
}

// Append appends the header as it stands; Link.AppendCapsuleResp computes it.
func (p CapsuleResp) Append(b []byte) []byte { return p.Completion.Append(p.Header.Append(b)) }

// Len is CapsuleRespSize.
func (p CapsuleResp) Len() int { return CapsuleRespSize }
