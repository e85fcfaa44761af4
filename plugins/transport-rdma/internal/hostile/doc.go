// Package hostile holds a small NVMe/RDMA host of our own, and tests that run it in a guest of package e2e against an
// agent: what the kernel's host never sends, and what no host ought to send. It owns no part of the target.
//
// The tests have the build tags rdma and guest. MOORING_RDMA is the address that they connect to, MOORING_NQN the
// subsystem; they write to the namespace's second half.
package hostile
