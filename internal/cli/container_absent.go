package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

const (
	ownNetwork  = "containers have a network of their own"
	noPorts     = ownNetwork + ": with --network host their ports are reachable as they are"
	noDaemon    = "there is no daemon that"
	unsupported = "it is not supported"
	noVolumes   = "volumes by name are for Docker's clients of slipway serve"
)

// absentRun are flags of Docker's create and run that cannot be there, with what to do instead.
var absentRun = []struct{ name, short, advice string }{
	{"publish", "p", noPorts}, {"publish-all", "P", noPorts},
	{"attach", "a", "the streams are always attached; standard input with -i"},
	{"ip", "", ownNetwork}, {"ip6", "", ownNetwork}, {"link", "", ownNetwork}, {"link-local-ip", "", ownNetwork},
	{"mac-address", "", ownNetwork}, {"network-alias", "", ownNetwork}, {"net-alias", "", ownNetwork},
	{"dns", "", "the host's name servers are used"}, {"dns-option", "", "the host's name servers are used"},
	{"dns-opt", "", "the host's name servers are used"}, {"dns-search", "", "the host's name servers are used"},
	{"health-cmd", "", noDaemon + " would watch a container's health"}, {"health-interval", "", noDaemon + " would watch a container's health"},
	{"health-retries", "", noDaemon + " would watch a container's health"}, {"health-timeout", "", noDaemon + " would watch a container's health"},
	{"health-start-period", "", noDaemon + " would watch a container's health"},
	{"health-start-interval", "", noDaemon + " would watch a container's health"},
	{"volumes-from", "", noVolumes + ": give both containers the same -v HOST:CONTAINER"},
	{"volume-driver", "", noVolumes + ": use -v HOST:CONTAINER"},
	{"use-api-socket", "", "there is no API server whose socket could be mounted"},
	{"gpus", "", unsupported}, {"device", "", unsupported + ": --privileged gives access to devices that are bound with -v"},
	{"device-cgroup-rule", "", unsupported}, {"device-read-bps", "", unsupported}, {"device-read-iops", "", unsupported},
	{"device-write-bps", "", unsupported}, {"device-write-iops", "", unsupported},
	{"blkio-weight", "", unsupported}, {"blkio-weight-device", "", unsupported},
	{"storage-opt", "", unsupported}, {"annotation", "", unsupported},
	{"oom-kill-disable", "", unsupported}, {"oom-score-adj", "", unsupported},
	{"memory-reservation", "", unsupported}, {"memory-swappiness", "", unsupported}, {"kernel-memory", "", "the kernel has no such limit any more"},
	{"cpu-rt-period", "", unsupported}, {"cpu-rt-runtime", "", unsupported},
}

// onlyValues are the values of flags that ask for what is so anyway; others are refused.
var onlyValues = map[string][]string{
	"restart":  {"", "no"},
	"ipc":      {"", "private", "shareable"},
	"pid":      {"", "private"},
	"uts":      {"", "private"},
	"cgroupns": {"", "private"},
}

// check refuses flags that are not there, and values of others.
func (o *containerFlags) check(cmd *cobra.Command, stderr io.Writer) error {
	for _, a := range absentRun {
		if f := cmd.Flags().Lookup(a.name); f != nil && f.Changed {
			return fmt.Errorf("--%s: %s", a.name, a.advice)
		}
	}
	for name, values := range onlyValues {
		v, err := cmd.Flags().GetString(name)
		if err != nil || slices.Contains(values, v) {
			continue
		}
		if name == "restart" {
			if o.remove {
				return fmt.Errorf("conflicting options: cannot specify both --restart and --rm")
			}
			return fmt.Errorf("--restart %s: %s would restart a container", v, noDaemon)
		}
		return fmt.Errorf("--%s %s: %s", name, v, unsupported)
	}
	switch o.pull {
	case "always", "missing", "never", "":
	default:
		return fmt.Errorf("invalid pull option: '%s': must be one of %q, %q or %q", o.pull, "always", "missing", "never")
	}
	if o.init {
		fmt.Fprintln(stderr, "WARNING: --init: there is no init program: the command is the container's first process")
	}
	return nil
}

// appArmorOf is the profile that values of --security-opt name, or "".
func appArmorOf(securityOpts []string) (profile string) {
	for _, v := range securityOpts {
		if name, ok := strings.CutPrefix(strings.Replace(v, ":", "=", 1), "apparmor="); ok {
			profile = name
		}
	}
	return profile
}
