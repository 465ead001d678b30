package cli

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/docker/cli/cli/config"
	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/kube"
	"github.com/slipway-build/slipway/internal/sandbox"
)

// ignored are flags of Docker's build that change nothing, with the warning that buildx gives.
var ignored = []struct{ name, warning string }{
	{"security-opt", `security-opt flag is deprecated. "RUN --security=insecure" should be used with BuildKit.`},
}

// addCompatFlags adds the flags that are there for the sake of Docker's command line only.
func (a *app) addCompatFlags(cmd *cobra.Command, opts *buildFlags) {
	f := cmd.Flags()
	f.StringSliceVar(&opts.noCacheFilter, "no-cache-filter", nil, "Do not cache specified stages")
	f.BoolVar(&opts.squash, "squash", false, "Not supported: squash in a stage of the Dockerfile")
	a.builderFlag(f)
	f.StringArrayVar(&opts.policy, "policy", nil, `Policy of sources: "disabled=true", as there are none`)
	f.Bool("rm", true, "Accepted for Docker's sake: no container is left")
	f.Bool("force-rm", false, "Accepted for Docker's sake: no container is left")
	f.Bool("compress", false, "Accepted for Docker's sake: nothing is sent to a daemon")
	f.StringArrayVar(&opts.securityOpts, "security-opt", nil, `Security options of each "RUN": apparmor=PROFILE (default docker-default where there is AppArmor)`)
	for _, name := range []string{"squash", "rm", "force-rm", "compress", "policy"} {
		f.Lookup(name).Hidden = true
	}
}

// checkCompat refuses combinations that buildx refuses, and warns of flags without an effect.
func (a *app) checkCompat(cmd *cobra.Command, opts *buildFlags) error {
	switch {
	case opts.squash:
		return errors.New("--squash: squashing is not supported: copy what is wanted into a last stage, FROM scratch and COPY --from")
	case emptyKey(opts.labels) != "":
		return fmt.Errorf("--label: invalid key-value pair %q: empty key", emptyKey(opts.labels))
	case emptyKey(opts.buildArgs) != "":
		return fmt.Errorf("--build-arg: invalid key-value pair %q: empty key", emptyKey(opts.buildArgs))
	case slices.ContainsFunc(opts.policy, func(v string) bool { return v != "disabled=true" }):
		return fmt.Errorf("--policy %s: policies of sources are not supported: leave it out, or say disabled=true", strings.Join(opts.policy, " --policy "))
	case opts.noCache && len(opts.noCacheFilter) > 0:
		return errors.New("--no-cache and --no-cache-filter cannot currently be used together")
	case opts.quiet && cmd.Flags().Changed("progress") && opts.progress != "quiet" && opts.progress != "auto":
		return fmt.Errorf("progress=%s and quiet cannot be used together", opts.progress)
	}
	if err := a.takeBuilder(&opts.onFlags, cmd.Flags()); err != nil {
		return err
	}
	for _, flag := range ignored {
		if cmd.Flags().Changed(flag.name) && (flag.name != "security-opt" || appArmorOf(opts.securityOpts) == "") {
			fmt.Fprintf(a.stderr, "WARNING: %s\n", flag.warning)
		}
	}
	return nil
}

// hostList splits values of --add-host that are lists, HOST:IP,HOST:IP. An address alone is another one of the host before it.
func hostList(values []string) (all []string) {
	for _, v := range values {
		for i, part := range strings.Split(v, ",") {
			if i > 0 && net.ParseIP(strings.Trim(part, "[]")) != nil {
				all[len(all)-1] += "," + part
				continue
			}
			all = append(all, part)
		}
	}
	return all
}

// extraHosts checks the values of --add-host as buildx does, HOST=IP[,IP] or HOST:IP with an address in
// brackets if that is wanted, and replaces the address host-gateway.
func extraHosts(values []string) ([]string, error) {
	hosts := make([]string, 0, len(values))
	for _, v := range values {
		host, list, ok := strings.Cut(v, "=")
		if !ok {
			host, list, ok = strings.Cut(v, ":")
		}
		if !ok || host == "" || list == "" {
			return nil, fmt.Errorf("invalid host %s", v)
		}
		for ip := range strings.SplitSeq(list, ",") {
			if len(ip) > 2 && ip[0] == '[' && ip[len(ip)-1] == ']' {
				ip = ip[1 : len(ip)-1]
			}
			if ip == "host-gateway" && ip == list {
				ip = sandbox.HostGateway
			}
			if net.ParseIP(ip) == nil {
				return nil, fmt.Errorf("invalid host %s", v)
			}
			hosts = append(hosts, host+"="+ip)
		}
	}
	return hosts, nil
}

// emptyKey returns the first KEY=VALUE pair without a key.
func emptyKey(pairs []string) string {
	for _, p := range pairs {
		if strings.HasPrefix(p, "=") {
			return p
		}
	}
	return ""
}

// withProxies adds the proxies of Docker's configuration file (proxies.default) to the build
// arguments, as buildx does. What was given on the command line, in any case, wins.
func withProxies(buildArgs map[string]string) map[string]string {
	if os.Getenv("DOCKER_CONFIG") == kube.Dir { // of a Job that others may have joined, who do not see what is in its Secret
		return buildArgs
	}
	given := map[string]bool{}
	for k := range buildArgs {
		given[strings.ToUpper(k)] = true
	}
	file, _ := config.Load("") // LoadDefaultConfigFile would look for the programs that keep passwords, all along PATH
	p := file.Proxies["default"]
	for k, v := range map[string]string{
		"HTTP_PROXY": p.HTTPProxy, "HTTPS_PROXY": p.HTTPSProxy, "NO_PROXY": p.NoProxy,
		"FTP_PROXY": p.FTPProxy, "ALL_PROXY": p.AllProxy,
	} {
		if v != "" && !given[k] {
			buildArgs[k] = v
		}
	}
	return buildArgs
}
