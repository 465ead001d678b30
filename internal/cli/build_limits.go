package cli

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"
)

// limitFlags are the flags that limit each step of a build.
type limitFlags struct {
	memory, memorySwap, cpusetCpus, cpusetMems string
	userns                                     string
	resources                                  []string
	cpuPeriod, cpuQuota, cpuShares, pids       int64
}

func (o *limitFlags) add(f *pflag.FlagSet) {
	f.StringArrayVar(&o.resources, "resource", nil, `Resource limits of each "RUN" (format: "memory=2g", "cpu-quota=50000"; the names are those of the flags)`)
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

// takeResources reads the values of --resource, each of which says what another flag says. They come after those.
func (o *limitFlags) takeResources() error {
	for _, entry := range o.resources {
		key, value, ok := strings.Cut(entry, "=")
		if !ok {
			return fmt.Errorf("invalid resource %q, expected key=value", entry)
		}
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		texts := map[string]*string{"memory": &o.memory, "memory-swap": &o.memorySwap, "cpuset-cpus": &o.cpusetCpus, "cpuset-mems": &o.cpusetMems}
		numbers := map[string]*int64{"cpu-shares": &o.cpuShares, "cpu-period": &o.cpuPeriod, "cpu-quota": &o.cpuQuota}
		switch {
		case texts[key] != nil:
			*texts[key] = value
		case numbers[key] != nil:
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				return fmt.Errorf("invalid value %q for resource %s: %w", value, key, err)
			}
			*numbers[key] = n
		default:
			return fmt.Errorf("unknown resource %q", key)
		}
	}
	return nil
}

// attrs sets the frontend's options. It reads them as BuildKit's does, which then says what is
// wrong with a number.
func (o *limitFlags) attrs(attrs map[string]string) error {
	if err := o.takeResources(); err != nil {
		return err
	}
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
