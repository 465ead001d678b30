package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// defaultHostname is the name of a container that was given none. It is the same for all, so
// that steps that note it somewhere stay reproducible; BuildKit's, so that they note the same there.
const defaultHostname = "buildkitsandbox"

// generated are the host's answers to a container's questions, as files to mount.
type generated struct{ resolv, hosts, hostname string }

// writeFiles makes the generated files in dir.
func writeFiles(dir string, spec *Spec) (g generated, err error) {
	g = generated{filepath.Join(dir, "resolv.conf"), filepath.Join(dir, "hosts"), filepath.Join(dir, "hostname")}
	resolv, err := resolvConf(spec.Network)
	if err != nil {
		return g, err
	}
	for path, text := range map[string]string{
		g.resolv:   resolv,
		g.hosts:    hostsFile(hostname(spec), spec.ExtraHosts),
		g.hostname: hostname(spec) + "\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return g, fmt.Errorf("writing the container's %s: %w", filepath.Base(path), err)
		}
		// The umask must not hide the file from the container's users.
		if err := os.Chmod(path, 0o644); err != nil {
			return g, fmt.Errorf("writing the container's %s: %w", filepath.Base(path), err)
		}
	}
	return g, nil
}

func hostname(spec *Spec) string {
	if spec.Hostname != "" {
		return spec.Hostname
	}
	return defaultHostname
}

func hostsFile(name string, extra []HostEntry) string {
	var b strings.Builder
	fmt.Fprintf(&b, "127.0.0.1\tlocalhost %s\n", name)
	b.WriteString("::1\tlocalhost ip6-localhost ip6-loopback\n")
	for _, e := range extra {
		fmt.Fprintf(&b, "%s\t%s\n", e.IP, e.Host)
	}
	return b.String()
}

// The host's resolver configuration, and the one without the stub when systemd-resolved has put
// its own there; variables for tests.
var (
	hostResolvConf     = "/etc/resolv.conf"
	resolvedResolvConf = "/run/systemd/resolve/resolv.conf"
)

// resolvConf is the content of the container's /etc/resolv.conf: the host's own where the
// container shares its network. In another network the stub that systemd-resolved runs on the
// host's loopback is out of reach, so the real servers are named.
func resolvConf(network Network) (string, error) {
	text, err := readOptional(hostResolvConf)
	if err != nil || network == NetworkHost {
		return text, err
	}
	if servers := nameservers(text); len(servers) == 1 && servers[0] == "127.0.0.53" {
		return readOptional(resolvedResolvConf)
	}
	return text, nil
}

func nameservers(resolv string) (servers []string) {
	for line := range strings.Lines(resolv) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "nameserver" {
			servers = append(servers, f[1])
		}
	}
	return servers
}

func readOptional(path string) (string, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("reading the host's resolver configuration: %w", err)
	}
	return string(text), nil
}
