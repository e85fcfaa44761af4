// Package e2e tests the built binaries as a Linux machine sees them: it boots Debian's kernel in QEMU with the agent
// inside and uses the kernel's own NVMe/TCP host and iSCSI initiator, nvme-cli, open-iscsi, fio and ext4 on it.
//
// The cases are shell scripts in testdata, run in the guest; the tests here (build tag e2e) boot them and judge what
// they leave in the results folder. Package rig owns the machines, program ackwrite knows what was acknowledged when
// the power went, program wiretap keeps what host and target said to each other. Run install-deps.sh once, and "make
// build", before "go test -tags e2e ./e2e/...".
//
//	MOORING_BIN     folder with mooring and plugins/, if not ../bin
//	E2E_TARGET      "kernel" runs the cases against the kernel's own target: it judges the cases, not Mooring
//	E2E_CUTS        how often the power goes; default 2
//	E2E_KEEP        a folder to keep each case's results in
package e2e
