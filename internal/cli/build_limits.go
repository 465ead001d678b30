package cli

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"
)

// limitFlags are the flags that limit each step of a build.
type limitFlags struct {
	memory, memorySwap, cpusetCpus, cpusetMems string
	userns                                     string
	cpuPeriod, cpuQuota, cpuShares, pids       int64
}

func (o *limitFlags) add(f *pflag.FlagSet) {
	f.StringVarP(&o.memory, "memory", "m", "", `Memory limit of each "RUN", such as 512m`)
	f.StringVar(&o.memorySwap, "memory-swap", "", `Swap limit equal to memory plus swap: "-1" to enable unlimited swap`)
	f.Int64Var(&o.cpuPeriod, "cpu-period", 0, "Limit the CPU CFS (Completely Fair Scheduler) period, in microseconds")
	f.Int64Var(&o.cpuQuota, "cpu-quota", 0, "Limit the CPU CFS (Completely Fair Scheduler) quota, in microseconds")
	f.Int64VarP(&o.cpuShares, "cpu-shares", "c", 0, "CPU shares (relative weight)")
	f.StringVar(&o.cpusetCpus, "cpuset-cpus", "", "CPUs in which to allow execution (0-3, 0,1)")
	f.Int64Var(&o.pids, "pids-limit", 0, `Limit of processes and threads of each "RUN" (default 16384, -1 for unlimited)`)
	f.StringVar(&o.userns, "userns", "host", usernsUsage)
	f.StringVar(&o.cpusetMems, "cpuset-mems", "", "MEMs in which to allow execution (0-3, 0,1)")
}

const usernsUsage = `User namespace: "host", or "auto" for one in which root is not root of the host`

// userNS reports whether the value of --userns asks for a user namespace.
func userNS(value string) (bool, error) {
	switch value {
	case "", "host":
		return false, nil
	case "auto":
		return true, nil
	}
	return false, fmt.Errorf("--userns %s: only host and auto are there", value)
}

// attrs sets the frontend's options. It reads them as BuildKit's does, which then says what is
// wrong with a number.
func (o *limitFlags) attrs(attrs map[string]string) error {
	var errs []error
	for key, size := range map[string]struct{ flag, value string }{
		"memory": {"memory", o.memory}, "memswap": {"memory-swap", o.memorySwap},
	} {
		switch size.value {
		case "":
		case "-1":
			attrs[key] = "-1"
		default:
			n, err := units.RAMInBytes(size.value)
			if err != nil {
				errs = append(errs, fmt.Errorf("--%s %s: %w", size.flag, size.value, err))
			}
			attrs[key] = strconv.FormatInt(n, 10)
		}
	}
	for key, n := range map[string]int64{"cpuperiod": o.cpuPeriod, "cpuquota": o.cpuQuota, "cpushares": o.cpuShares} {
		if n != 0 {
			attrs[key] = strconv.FormatInt(n, 10)
		}
	}
	for key, list := range map[string]string{"cpusetcpus": o.cpusetCpus, "cpusetmems": o.cpusetMems} {
		if list != "" {
			attrs[key] = list
		}
	}
	return errors.Join(errs...)
}
