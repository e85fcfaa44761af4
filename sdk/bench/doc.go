// Package bench loads a namespace or a logical unit and measures it: IOPS, throughput, latency and the CPU
// that the target takes. It owns the workload, the verification pattern and the figures; it does not own
// the connections (packages nvmehost and iscsihost, behind the interface host) nor how results are shown.
//
// One locked OS thread drives all queues, so that the load costs little beside what it measures.
package bench
