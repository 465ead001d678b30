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
	cpuPeriod, cpuQuota, cpuShares             int64
}

func (o *limitFlags) add(f *pflag.FlagSet) {
	f.StringVarP(&o.memory, "memory", "m", "", "Memory limit of each RUN, such as 512m")
	f.StringVar(&o.memorySwap, "memory-swap", "", "Limit of memory and swap of each RUN; -1 is no limit")
	f.Int64Var(&o.cpuPeriod, "cpu-period", 0, "Microseconds in which --cpu-quota is given")
	f.Int64Var(&o.cpuQuota, "cpu-quota", 0, "Microseconds of all processors that each RUN gets in a period")
	f.Int64VarP(&o.cpuShares, "cpu-shares", "c", 0, "Weight of each RUN beside other processes (1024 is that of most)")
	f.StringVar(&o.cpusetCpus, "cpuset-cpus", "", "Processors of each RUN, such as 0-3 or 0,1")
	f.StringVar(&o.cpusetMems, "cpuset-mems", "", "Memory nodes of each RUN, such as 0-3 or 0,1")
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
