package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

const (
	ownNetwork = "containers have a network of their own"
	noPorts    = ownNetwork + ": with --network host their ports are reachable as they are"
	noDaemon   = "there is no daemon that"
	notYet     = "it is not there yet"
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
	{"volumes-from", "", "there are no named volumes: give both containers the same -v HOST:CONTAINER"},
	{"volume-driver", "", "there are no named volumes: use -v HOST:CONTAINER"},
	{"use-api-socket", "", "there is no API server whose socket could be mounted"},
	{"gpus", "", notYet}, {"device", "", notYet + ": --privileged gives access to devices that are bound with -v"},
	{"device-cgroup-rule", "", notYet}, {"device-read-bps", "", notYet}, {"device-read-iops", "", notYet},
	{"device-write-bps", "", notYet}, {"device-write-iops", "", notYet},
	{"blkio-weight", "", notYet}, {"blkio-weight-device", "", notYet},
	{"domainname", "", notYet}, {"sysctl", "", notYet}, {"storage-opt", "", notYet}, {"annotation", "", notYet},
	{"oom-kill-disable", "", notYet}, {"oom-score-adj", "", notYet},
	{"memory-reservation", "", notYet}, {"memory-swappiness", "", notYet}, {"kernel-memory", "", "the kernel has no such limit any more"},
	{"cpu-rt-period", "", notYet}, {"cpu-rt-runtime", "", notYet},
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
		return fmt.Errorf("--%s %s: %s", name, v, notYet)
	}
	for _, v := range o.securityOpts {
		switch name, _, _ := strings.Cut(strings.Replace(v, ":", "=", 1), "="); {
		case name == "apparmor", v == "label=disable", v == "label:disable": // so it is
		default:
			return fmt.Errorf("--security-opt %s: %s: --privileged drops all restrictions", v, notYet)
		}
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
