package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
)

// fioResult is the part of fio's JSON that is of use here.
type fioResult struct {
	Version string `json:"fio version"`
	Jobs    []struct {
		Error    int     `json:"error"`
		UserCPU  float64 `json:"usr_cpu"` // percent of the job's time
		SysCPU   float64 `json:"sys_cpu"`
		Read     fioSide `json:"read"`
		Write    fioSide `json:"write"`
		JobName  string  `json:"jobname"`
		Duration float64 `json:"job_runtime"` // ms
	} `json:"jobs"`
}

type fioSide struct {
	IOs     float64 `json:"total_ios"`
	Runtime float64 `json:"runtime"` // ms
	Latency struct {
		Percentile map[string]float64 `json:"percentile"` // ns
	} `json:"clat_ns"`
}

// fioArgs is the command line for a load on file.
func fioArgs(o options, file string, l load, sync bool) []string {
	args := []string{
		"--name=bench", "--filename=" + file, "--rw=" + l.RW, fmt.Sprintf("--bs=%d", l.BlockBytes),
		fmt.Sprintf("--iodepth=%d", l.QueueDepth), "--ioengine=libaio", "--direct=1", "--numjobs=1", "--norandommap", "--randrepeat=0",
		"--time_based", fmt.Sprintf("--runtime=%dms", o.Time.Milliseconds()), "--output-format=json",
	}
	if sync {
		args = append(args, "--sync=1")
	}
	return args
}

// fio measures the bare file, on the CPU of the targets.
func fio(ctx context.Context, o options, file string, l load, sync bool) (Sample, error) {
	cmd := exec.CommandContext(ctx, "fio", fioArgs(o, file, l, sync)...)
	var out, diag bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &diag
	if err := o.Pinning.run(cmd, o.Pinning.Target); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return Sample{}, &missingError{"fio is not installed (Debian: apt-get install fio)"}
		}
		return Sample{}, fmt.Errorf("fio: %w: %s", err, bytes.TrimSpace(diag.Bytes()))
	}
	return fioSample(out.Bytes(), l)
}

func fioSample(out []byte, l load) (Sample, error) {
	var r fioResult
	if err := json.Unmarshal(out, &r); err != nil {
		return Sample{}, fmt.Errorf("fio: %w", err)
	}
	if len(r.Jobs) != 1 || r.Jobs[0].Error != 0 {
		return Sample{}, errors.New("fio: not one job without an error")
	}
	j := &r.Jobs[0]
	side := &j.Write
	if l.reads() {
		side = &j.Read
	}
	s := side.Runtime / 1e3
	if s == 0 {
		return Sample{}, errors.New("fio: measured nothing")
	}
	return Sample{
		IOPS: side.IOs / s, MiBps: side.IOs / s * float64(l.BlockBytes) / (1 << 20), Seconds: s,
		P50: side.Latency.Percentile["50.000000"] / 1e3, P99: side.Latency.Percentile["99.000000"] / 1e3,
		CPU: (j.UserCPU + j.SysCPU) / 100 * j.Duration / 1e3,
	}, nil
}
