package sandbox

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/slipway-build/slipway/internal/network"
	"golang.org/x/sys/unix"
)

// defaultHostname is the name of a container that was given none. It is the same for all, so
// that steps that note it somewhere stay reproducible; BuildKit's, so that they note the same there.
const defaultHostname = "buildkitsandbox"

// generated are the host's answers to a container's questions, as files to mount.
type generated struct{ resolv, hosts, hostname string }

// makeFiles makes the generated files in dir, empty so far, to be mounted.
func makeFiles(dir string, spec *Spec) (g generated, err error) {
	if spec.Container && spec.Root.Upper != "" {
		if dir, err = ownMemory(dir); err != nil {
			return g, err
		}
	}
	g = generated{filepath.Join(dir, "resolv.conf"), filepath.Join(dir, "hosts"), filepath.Join(dir, "hostname")}
	return g, g.fill(spec, "", "", "")
}

// ownMemorySize is how much a container may write to its generated files, in bytes: names that are to be blocked are some MiB in /etc/hosts.
const ownMemorySize = 16 << 20

// ownMemory mounts a filesystem below dir for files that a container may write to: what dir is on would take all memory.
func ownMemory(dir string) (string, error) {
	path := filepath.Join(dir, "files")
	if err := os.Mkdir(path, 0o711); err != nil {
		return "", fmt.Errorf("making a directory of files: %w", err)
	}
	return path, mountMemory(path, "mode=711,"+formatSize(ownMemorySize))
}

// write fills the files.
func (g generated) write(spec *Spec, host resolvers) error {
	resolv, err := host.conf(spec.Network)
	if err != nil {
		return err
	}
	hosts, err := hostsOf(spec)
	if err != nil {
		return err
	}
	return g.fill(spec, resolv, hosts, hostname(spec)+"\n")
}

func (g generated) fill(spec *Spec, resolv, hosts, hostname string) error {
	files := map[string]string{g.resolv: resolv, g.hosts: hosts}
	if spec.Container {
		files[g.hostname] = hostname
	}
	for path, text := range files {
		if err := writeFile(path, text); err != nil {
			return fmt.Errorf("making the container's %s: %w", filepath.Base(path), err)
		}
	}
	return nil
}

func hostname(spec *Spec) string {
	if spec.Hostname != "" {
		return spec.Hostname
	}
	return defaultHostname
}

// hostsOf is the content of /etc/hosts: that of the host for a container that asked for its network, has its name, and asked for no hosts more.
func hostsOf(spec *Spec) (string, error) {
	if spec.Container && spec.Network == NetworkHost && !spec.sharesNetwork && len(spec.ExtraHosts) == 0 && spec.Hostname == hostName() {
		own, err := readOptional(hostHosts)
		if err != nil || own != "" {
			return own, err
		}
	}
	return hostsFile(spec), nil
}

func hostsFile(spec *Spec) string {
	var b strings.Builder
	if spec.Domainname == "" {
		fmt.Fprintf(&b, "127.0.0.1\tlocalhost %s\n", hostname(spec))
	} else { // the first name of a line is the whole one
		fmt.Fprintf(&b, "127.0.0.1\tlocalhost\n127.0.0.1\t%s.%s %[1]s\n", hostname(spec), spec.Domainname)
	}
	b.WriteString("::1\tlocalhost ip6-localhost ip6-loopback\n")
	for _, e := range spec.ExtraHosts {
		ip := e.IP
		if ip == HostGateway && spec.Network == NetworkHost {
			ip = "127.0.0.1"
		}
		fmt.Fprintf(&b, "%s\t%s\n", ip, e.Host)
	}
	return b.String()
}

// hostName is the host's name; "" where it cannot be found out.
func hostName() string {
	name, _ := os.Hostname()
	return name
}

// hostHosts is the host's file of names; a variable for tests.
var hostHosts = "/etc/hosts"

// The host's resolver configuration, and the one without the stub when systemd-resolved has put
// its own there; variables for tests.
var (
	hostResolvConf     = "/etc/resolv.conf"
	resolvedResolvConf = "/run/systemd/resolve/resolv.conf"
)

// resolvers is the host's resolver configuration.
type resolvers struct {
	text    string
	servers []netip.AddrPort // in text; the loopback if there is none, as resolv.conf(5) has it
}

func hostResolvers() (r resolvers, err error) {
	if r.text, err = readOptional(hostResolvConf); err != nil {
		return r, err
	}
	for line := range strings.Lines(r.text) {
		if server, ok := nameserver(line); ok {
			r.servers = append(r.servers, netip.AddrPortFrom(server, 53))
		}
	}
	if len(r.servers) == 0 {
		r.servers = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")}
	}
	return r, nil
}

// now are the servers that the host has by now, as far as that is known.
func (r resolvers) now() []netip.AddrPort {
	if now, err := hostResolvers(); err == nil {
		return now.servers
	}
	return r.servers
}

// nameserver is the server that a line of a resolv.conf names.
func nameserver(line string) (server netip.Addr, ok bool) {
	f := strings.Fields(line)
	if len(f) < 2 || f[0] != "nameserver" {
		return server, false
	}
	server, err := netip.ParseAddr(f[1])
	return server, err == nil
}

// conf is the content of a container's /etc/resolv.conf. Where the container shares the host's network it
// is the host's own. In a network of its own the servers are at addresses there, wherever they are:
// the host's loopback is out of reach otherwise. Without a network it names the real servers where
// the host's names the stub of systemd-resolved.
func (r resolvers) conf(n Network) (string, error) {
	switch {
	case n == NetworkBridge:
		return r.translated(), nil
	case n == NetworkNone && len(r.servers) == 1 && r.servers[0].Addr().String() == "127.0.0.53":
		return readOptional(resolvedResolvConf)
	}
	return r.text, nil
}

// translated is the text with the servers' addresses in a network of its own.
func (r resolvers) translated() string {
	var b strings.Builder
	for line := range strings.Lines(r.text) {
		if f := strings.Fields(line); len(f) == 0 || f[0] != "nameserver" {
			b.WriteString(strings.TrimSuffix(line, "\n") + "\n")
		}
	}
	for _, server := range network.Resolvers(len(r.servers)) {
		fmt.Fprintf(&b, "nameserver %s\n", server)
	}
	return b.String()
}

func readOptional(path string) (string, error) {
	f, err := openFile(path, unix.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	var text []byte
	if err == nil {
		text, err = io.ReadAll(f)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return "", fmt.Errorf("reading the host's names and their servers: %w", err)
	}
	return string(text), nil
}
