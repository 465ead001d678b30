package sandbox

import (
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// hasCgroup reports whether a container gets a cgroup of its own. An insecure one may make cgroups, which
// are to end with it.
func (s *Spec) hasCgroup() bool {
	return s.CgroupPath != "" || s.Resources != Resources{} || s.Insecure && canMakeCgroups()
}

// oci are the limits in the words of the runtime specification, with the rules for devices that a
// container's cgroup has in Docker.
func (r Resources) oci(insecure bool, maxProcesses int64) *specs.LinuxResources {
	o := &specs.LinuxResources{Devices: deviceRules}
	if insecure {
		o.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Type: "c", Access: "rwm"}, {Allow: true, Type: "b", Access: "rwm"}}
	}
	if r.Memory != 0 || r.MemorySwap != 0 {
		o.Memory = &specs.LinuxMemory{Limit: given(r.Memory), Swap: given(r.MemorySwap)}
	}
	cpu := specs.LinuxCPU{Shares: given(r.CPUShares), Period: given(r.CPUPeriod), Quota: given(r.CPUQuota), Cpus: r.CpusetCpus, Mems: r.CpusetMems}
	if cpu != (specs.LinuxCPU{}) {
		o.CPU = &cpu
	}
	if r.Pids == 0 {
		r.Pids = maxProcesses
	}
	if r.Pids != 0 {
		o.Pids = &specs.LinuxPids{Limit: &r.Pids}
	}
	return o
}

// given is a value that may be missing.
func given[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

// check refuses limits that mean nothing.
func (r Resources) check() error {
	switch {
	case r.Memory < 0:
		return fmt.Errorf("memory limit %d is negative", r.Memory)
	case r.MemorySwap < -1:
		return fmt.Errorf("limit %d of memory and swap is negative", r.MemorySwap)
	case r.MemorySwap > 0 && r.MemorySwap < r.Memory:
		return fmt.Errorf("the limit of memory and swap, %d, is smaller than that of memory, %d", r.MemorySwap, r.Memory)
	case r.CPUQuota < 0:
		return fmt.Errorf("processor quota %d is negative", r.CPUQuota)
	case r.Pids < -1:
		return fmt.Errorf("limit %d of processes is negative", r.Pids)
	}
	return nil
}
