package cli

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	csvvalue "github.com/tonistiigi/go-csvvalue"

	"github.com/slipway-build/slipway/internal/sandbox"
)

// mountFlag is a value of --mount as it is read: the options of Docker's that have a meaning here.
type mountFlag struct {
	kind, source, target string
	readOnly, createSrc  bool
	tmpfs                sandbox.Tmpfs
	own                  string // the prefix of the options that only one type has, "bind", "tmpfs", "volume", "image"
}

// parseMount reads a value of --mount by the rules and with the words of Docker (docker/cli,
// opts/mount.go). An anonymous volume is nil: the container's own directory serves as well.
func parseMount(value string) (*sandbox.Mount, error) {
	fields, err := csvvalue.Fields(strings.TrimSpace(value), nil)
	if err != nil {
		return nil, fmt.Errorf("--mount %q: %w", value, err)
	}
	m := mountFlag{kind: "volume"}
	for _, field := range fields {
		if err := m.set(field); err != nil {
			return nil, fmt.Errorf("--mount %q: %w", value, err)
		}
	}
	mount, err := m.mount()
	if err != nil {
		return nil, fmt.Errorf("--mount %q: %w", value, err)
	}
	return mount, nil
}

func (m *mountFlag) set(field string) (err error) {
	key, val, hasValue := strings.Cut(field, "=")
	if k := strings.TrimSpace(key); k != key {
		return fmt.Errorf("invalid option '%s' in '%s': option should not have whitespace", k, field)
	}
	if hasValue && strings.TrimSpace(val) == "" {
		return fmt.Errorf("invalid value for '%s': value is empty", key)
	}
	if strings.TrimSpace(val) != val {
		return fmt.Errorf("invalid value for '%s' in '%s': value should not have whitespace", key, field)
	}
	key = strings.ToLower(key)
	switch key {
	case "readonly", "ro", "volume-nocopy", "bind-nonrecursive", "bind-create-src":
	default:
		if !hasValue {
			return fmt.Errorf("invalid field '%s' must be a key=value pair", field)
		}
	}
	if prefix, _, ok := strings.Cut(key, "-"); ok {
		m.own = prefix
	}
	switch key {
	case "type":
		m.kind = strings.ToLower(val)
	case "source", "src":
		m.source = val
	case "target", "dst", "destination":
		m.target = val
	case "readonly", "ro":
		m.readOnly, err = mountBool(key, val, hasValue)
	case "bind-create-src":
		m.createSrc, err = mountBool(key, val, hasValue)
	case "consistency": // it has no meaning on Linux
	case "bind-propagation":
		if val != "rprivate" && val != "private" {
			return fmt.Errorf("bind-propagation=%s is not there: mounts are rprivate", val)
		}
	case "bind-recursive":
		if val != "enabled" && val != "readonly" {
			return fmt.Errorf("bind-recursive=%s is not there: mounts are shown with those below them", val)
		}
	case "tmpfs-size":
		if m.tmpfs.Size, err = units.RAMInBytes(val); err != nil {
			return fmt.Errorf("invalid value for %s: %s", key, val)
		}
	case "tmpfs-mode":
		mode, err := strconv.ParseUint(val, 8, 32)
		if err != nil {
			return fmt.Errorf("invalid value for %s: %s", key, val)
		}
		m.tmpfs.Mode = uint32(mode) & 0o7777
	case "volume-nocopy", "volume-label", "volume-driver", "volume-opt", "volume-subpath", "image-subpath", "bind-nonrecursive":
		return fmt.Errorf("option '%s' is not there", key)
	default:
		return fmt.Errorf("unknown option '%s' in '%s'", key, field)
	}
	return err
}

func mountBool(key, val string, hasValue bool) (bool, error) {
	switch {
	case !hasValue, val == "1", val == "true":
		return true, nil
	case val == "0", val == "false":
		return false, nil
	}
	return false, fmt.Errorf(`invalid value for '%s': invalid boolean value (%q): must be one of "true", "1", "false", or "0" (default "true")`, key, val)
}

// mount checks what belongs together.
func (m *mountFlag) mount() (*sandbox.Mount, error) {
	if m.own != "" && m.own != m.kind {
		return nil, fmt.Errorf("cannot mix '%s-*' options with mount type '%s'", m.own, m.kind)
	}
	if !path.IsAbs(m.target) || path.Clean(m.target) == "/" {
		return nil, errors.New("the target must be an absolute path in the container and not /")
	}
	out := &sandbox.Mount{Dest: path.Clean(m.target), ReadOnly: m.readOnly}
	switch m.kind {
	case "bind":
		if m.source == "" {
			return nil, errors.New("the source is missing: a file or directory of the host")
		}
		if !filepath.IsAbs(m.source) && !strings.HasPrefix(m.source, ".") {
			return nil, fmt.Errorf("invalid mount path: '%s' mount path must be absolute, or start with a dot", m.source)
		}
		abs, err := filepath.Abs(m.source)
		if err != nil {
			return nil, err
		}
		out.Bind = abs
		return out, m.checkSource(abs)
	case "tmpfs":
		if m.source != "" {
			return nil, errors.New("a mount of type tmpfs has no source")
		}
		m.tmpfs.NoExec = true
		out.Tmpfs = &m.tmpfs
		return out, nil
	case "volume":
		if m.source != "" {
			return nil, fmt.Errorf("%s: use type=bind with a directory, such as source=./%s", noVolumes, m.source)
		}
		return nil, nil
	case "":
		return nil, errors.New("type is required")
	}
	return nil, fmt.Errorf("mount type %q is not there: use bind or tmpfs", m.kind)
}

// checkSource is Docker's rule that --mount, other than --volume, makes no directory of the host
// unless told so.
func (m *mountFlag) checkSource(abs string) error {
	if m.createSrc {
		return makeBindSources([]sandbox.Mount{{Bind: abs}})
	}
	if _, err := os.Stat(abs); err != nil {
		return fmt.Errorf("invalid mount config for type \"bind\": bind source path does not exist: %s", abs)
	}
	return nil
}

// parseTmpfs reads a value of --tmpfs, PATH[:OPTIONS]. Without options nothing in it can be executed, as
// with Docker.
func parseTmpfs(value string) (*sandbox.Mount, error) {
	dest, options, _ := strings.Cut(value, ":")
	if !path.IsAbs(dest) || path.Clean(dest) == "/" {
		return nil, fmt.Errorf("--tmpfs %q: want an absolute path in the container that is not /", value)
	}
	m := &sandbox.Mount{Dest: path.Clean(dest), Tmpfs: &sandbox.Tmpfs{NoExec: true}}
	for _, opt := range strings.Split(options, ",") {
		key, val, _ := strings.Cut(opt, "=")
		var err error
		switch key {
		case "", "rw", "nosuid", "nodev", "async", "relatime", "rprivate", "private":
		case "ro":
			m.ReadOnly = true
		case "exec":
			m.Tmpfs.NoExec = false
		case "noexec":
			m.Tmpfs.NoExec = true
		case "size":
			m.Tmpfs.Size, err = units.RAMInBytes(val)
		case "mode":
			var mode uint64
			mode, err = strconv.ParseUint(val, 8, 32)
			m.Tmpfs.Mode = uint32(mode) & 0o7777
		default:
			err = errors.New("it is not there: use size, mode, exec, noexec, ro")
		}
		if err != nil {
			return nil, fmt.Errorf("--tmpfs %q: option %q: %w", value, opt, err)
		}
	}
	return m, nil
}
