// Package bench loads a namespace over NVMe/TCP and measures it: IOPS, throughput, latency and
// the CPU that the target takes. It owns the workload, the verification pattern and the figures;
// it does not own the connection (package nvmehost) nor how results are shown.
//
// One locked OS thread drives all queues, so that the load costs little beside what it measures.
package bench
