package cli

import (
	"errors"
	"fmt"
	"math/big"
	"os"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"

	"github.com/slipway-build/slipway/internal/sandbox"
)

// resourceFlags are the flags of create and run that limit a container.
type resourceFlags struct {
	memory, memorySwap, cpus, cpusetCpus, cpusetMems string
	cpuShares, cpuPeriod, cpuQuota, pids             int64
}

func (o *resourceFlags) add(f *pflag.FlagSet) {
	f.StringVarP(&o.memory, "memory", "m", "", "Memory limit")
	f.StringVar(&o.memorySwap, "memory-swap", "", "Swap limit equal to memory plus swap: '-1' to enable unlimited swap")
	f.StringVar(&o.cpus, "cpus", "", "Number of CPUs")
	f.Int64VarP(&o.cpuShares, "cpu-shares", "c", 0, "CPU shares (relative weight)")
	f.Int64Var(&o.cpuPeriod, "cpu-period", 0, "Limit CPU CFS (Completely Fair Scheduler) period")
	f.Int64Var(&o.cpuQuota, "cpu-quota", 0, "Limit CPU CFS (Completely Fair Scheduler) quota")
	f.StringVar(&o.cpusetCpus, "cpuset-cpus", "", "CPUs in which to allow execution (0-3, 0,1)")
	f.StringVar(&o.cpusetMems, "cpuset-mems", "", "MEMs in which to allow execution (0-3, 0,1)")
	f.Int64Var(&o.pids, "pids-limit", 0, "Tune container pids limit (set -1 for unlimited)")
}

// minMemory is Docker's (moby, daemon/daemon_unix.go): a container does not start with less.
const minMemory = 6 << 20

// resources checks the flags by the rules and with the words of Docker.
func (o *resourceFlags) resources() (r sandbox.Resources, err error) {
	if o.memory != "" {
		if r.Memory, err = units.RAMInBytes(o.memory); err != nil {
			return r, fmt.Errorf("--memory: %w", err)
		}
		if r.Memory > 0 && r.Memory < minMemory {
			return r, errors.New("Minimum memory limit allowed is 6MB") //lint:ignore ST1005 Docker's words
		}
	}
	switch o.memorySwap {
	case "":
		if r.Memory > 0 && swapAccounted() {
			r.MemorySwap = 2 * r.Memory // as much swap as memory
		}
	case "-1":
		r.MemorySwap = -1
	default:
		if r.MemorySwap, err = units.RAMInBytes(o.memorySwap); err != nil {
			return r, fmt.Errorf("--memory-swap: %w", err)
		}
	}
	switch {
	case r.MemorySwap > 0 && r.Memory == 0:
		//lint:ignore ST1005 these are Docker's words
		return r, errors.New("You should always set the Memory limit when using Memoryswap limit, see usage")
	case r.MemorySwap > 0 && r.MemorySwap < r.Memory:
		//lint:ignore ST1005 these are Docker's words
		return r, errors.New("Minimum memoryswap limit should be larger than memory limit, see usage")
	case o.cpuShares < 0 || o.cpuPeriod < 0 || o.cpuQuota < 0:
		return r, errors.New("--cpu-shares, --cpu-period and --cpu-quota cannot be negative")
	case o.cpus != "" && o.cpuPeriod != 0:
		//lint:ignore ST1005 these are Docker's words
		return r, errors.New("Conflicting options: Nano CPUs and CPU Period cannot both be set.")
	case o.cpus != "" && o.cpuQuota != 0:
		//lint:ignore ST1005 these are Docker's words
		return r, errors.New("Conflicting options: Nano CPUs and CPU Quota cannot both be set.")
	}
	r.CPUShares, r.CPUPeriod, r.CPUQuota = uint64(o.cpuShares), uint64(o.cpuPeriod), o.cpuQuota
	r.CpusetCpus, r.CpusetMems, r.Pids = o.cpusetCpus, o.cpusetMems, o.pids
	if o.cpus != "" {
		r.CPUPeriod = 100_000
		if r.CPUQuota, err = cpuQuota(o.cpus, 100_000); err != nil {
			return r, err
		}
	}
	return r, nil
}

// swapAccounted reports whether cgroups can limit swap: with version 1 that is an option of the kernel.
func swapAccounted() bool {
	for _, name := range []string{"cgroup.controllers", "memory/memory.memsw.limit_in_bytes"} {
		if _, err := os.Stat("/sys/fs/cgroup/" + name); err == nil {
			return true
		}
	}
	return false
}

// cpuQuota is a number of processors as microseconds of a period.
func cpuQuota(cpus string, period int64) (int64, error) {
	n, ok := new(big.Rat).SetString(cpus)
	if !ok || n.Sign() < 0 {
		return 0, fmt.Errorf("--cpus: failed to parse %s as a rational number", cpus)
	}
	n.Mul(n, new(big.Rat).SetInt64(period))
	return new(big.Int).Quo(n.Num(), n.Denom()).Int64(), nil
}
