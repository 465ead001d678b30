package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/docker/go-units"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/sandbox"
	"github.com/slipway-build/slipway/internal/store"
)

// Image is what a container is made of.
type Image struct {
	Ref      string        // as the user named it
	ID       digest.Digest // of the config
	Config   ocispec.Image
	Snapshot layer.Snapshot
}

// OpenImage reads an image whose blobs are in the store. Its layers are not unpacked yet.
func OpenImage(ctx context.Context, s *store.Store, ref string, manifest digest.Digest) (*Image, error) {
	var m ocispec.Manifest
	img := &Image{Ref: ref}
	if err := readJSON(ctx, s, manifest, &m); err != nil {
		return nil, fmt.Errorf("opening image %s: %w", ref, err)
	}
	if err := readJSON(ctx, s, m.Config.Digest, &img.Config); err != nil {
		return nil, fmt.Errorf("opening image %s: %w", ref, err)
	}
	img.ID = m.Config.Digest
	diffIDs := img.Config.RootFS.DiffIDs
	if len(diffIDs) != len(m.Layers) {
		return nil, fmt.Errorf("opening image %s: its config has %d diff_ids for %d layers", ref, len(diffIDs), len(m.Layers))
	}
	for i, desc := range m.Layers {
		id, err := s.BlobLayer(ctx, diffIDs[i], desc)
		if err != nil {
			return nil, fmt.Errorf("opening image %s: %w", ref, err)
		}
		img.Snapshot = append(img.Snapshot, id)
	}
	return img, nil
}

func readJSON(ctx context.Context, s *store.Store, d digest.Digest, v any) error {
	data, err := s.ReadBlob(ctx, d)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("decoding %s: %w", d, err)
	}
	return nil
}

// ReadImage reads the config of an image by its ID.
func ReadImage(ctx context.Context, s *store.Store, id digest.Digest) (*ocispec.Image, error) {
	var img ocispec.Image
	if err := readJSON(ctx, s, id, &img); err != nil {
		return nil, fmt.Errorf("reading the config of image %s: %w", id, err)
	}
	return &img, nil
}

// Options are what the user says about a container; the zero value is what the image says.
type Options struct {
	Args       []string // replace the image's CMD
	Entrypoint []string // replaces the image's ENTRYPOINT and drops its CMD; one "" is none
	Env        []string // KEY=VALUE; KEY alone removes it
	Cwd, User  string
	Hostname   string // "" is the beginning of the ID, or that of the host on its network
	Domainname string
	Network    sandbox.Network // "" is [sandbox.NetworkBridge]
	Joined     []Joined        // as in [Config]
	Mounts     []sandbox.Mount
	ExtraHosts []sandbox.HostEntry
	Ulimits    []sandbox.Ulimit
	ShmSize    int64
	Terminal   bool
	Size       sandbox.WinSize // of the terminal when it begins
	OpenStdin  bool            // attach standard input
	Privileged bool
	Labels     map[string]string
	// CapAdd and CapDrop are CAP_NAME or ALL.
	CapAdd, CapDrop []string
	// These are as in [sandbox.Spec].
	AppArmor                   string
	Seccomp                    string
	NoNewPrivileges            bool
	Sysctls                    map[string]string
	MaskedPaths, ReadonlyPaths *[]string
	// UserNS gives the container a user namespace.
	UserNS       bool
	Groups       []string // additional ones of the user
	ReadOnly     bool     // the root filesystem
	CgroupParent string
	Resources    sandbox.Resources
	StopSignal   string // "" is the image's
	StopTimeout  *int   // seconds
	AutoRemove   bool   // it is removed when it ends, by whoever runs it
	StdinOnce    bool   // its input ends with that of the first client that has one
	Log          LogConfig
	Docker       json.RawMessage // what a client of Docker's API asked for that has no effect, to be told it again
}

// Config is what a container runs; it is kept with the container's record.
type Config struct {
	Args       []string            `json:"args"`                 // what is executed: Entrypoint and Cmd
	Entrypoint []string            `json:"entrypoint,omitempty"` // the part of Args that is the entry point
	Env        []string            `json:"env"`
	Cwd        string              `json:"cwd"`
	User       string              `json:"user,omitempty"`
	Hostname   string              `json:"hostname,omitempty"`
	Domainname string              `json:"domainname,omitempty"`
	Network    sandbox.Network     `json:"network"`
	Joined     []Joined            `json:"joined,omitzero"` // the networks that it is in; nil: the one that Network says
	Mounts     []sandbox.Mount     `json:"mounts,omitempty"`
	ExtraHosts []sandbox.HostEntry `json:"extraHosts,omitempty"`
	Ulimits    []sandbox.Ulimit    `json:"ulimits,omitempty"`
	ShmSize    int64               `json:"shmSize,omitempty"`
	Terminal   bool                `json:"terminal,omitempty"`
	Size       sandbox.WinSize     `json:"size,omitzero"`
	OpenStdin  bool                `json:"openStdin,omitempty"`
	Privileged bool                `json:"privileged,omitempty"`
	StopSignal string              `json:"stopSignal,omitempty"`
	Labels     map[string]string   `json:"labels,omitempty"`

	CapAdd []string `json:"capAdd,omitempty"`
	// These are as in [sandbox.Spec].
	AppArmor        string            `json:"appArmor,omitempty"`
	Seccomp         string            `json:"seccomp,omitempty"`
	NoNewPrivileges bool              `json:"noNewPrivileges,omitempty"`
	Sysctls         map[string]string `json:"sysctls,omitempty"`
	MaskedPaths     *[]string         `json:"maskedPaths,omitempty"`
	ReadonlyPaths   *[]string         `json:"readonlyPaths,omitempty"`

	UserNS       bool     `json:"userNS,omitempty"`
	CapDrop      []string `json:"capDrop,omitempty"`
	Groups       []string `json:"groups,omitempty"`
	ReadOnly     bool     `json:"readOnly,omitempty"`
	CgroupParent string   `json:"cgroupParent,omitempty"`
	StopTimeout  *int     `json:"stopTimeout,omitempty"`
	AutoRemove   bool     `json:"autoRemove,omitempty"`

	Resources sandbox.Resources `json:"resources,omitzero"`

	StdinOnce bool            `json:"stdinOnce,omitempty"`
	Log       LogConfig       `json:"log,omitzero"`
	Docker    json.RawMessage `json:"docker,omitempty"`

	Step *Step `json:"step,omitempty"` // of a build that failed, if it came of one
}

// Cmd is the part of Args that is no entry point.
func (c *Config) Cmd() []string { return c.Args[min(len(c.Entrypoint), len(c.Args)):] }

// ErrNoCommand marks an image that does not say what to run, of which the user does not say it
// either.
var ErrNoCommand = errors.New("no command specified: the image has neither ENTRYPOINT nor CMD, give a command after its name")

// NewConfig merges what the image says with what the user says, by Docker's rules.
func NewConfig(img *Image, o Options) (*Config, error) {
	ic := img.Config.Config
	c := &Config{
		Cwd: ic.WorkingDir, User: ic.User, Hostname: o.Hostname, Domainname: o.Domainname, Network: o.Network, Joined: o.Joined, Mounts: o.Mounts,
		ExtraHosts: o.ExtraHosts, Ulimits: o.Ulimits, ShmSize: o.ShmSize, Terminal: o.Terminal, Size: o.Size,
		OpenStdin: o.OpenStdin, Privileged: o.Privileged, StopSignal: ic.StopSignal, Labels: map[string]string{},
		CapAdd: o.CapAdd, CapDrop: o.CapDrop, AppArmor: o.AppArmor, Seccomp: o.Seccomp, NoNewPrivileges: o.NoNewPrivileges, Sysctls: o.Sysctls, MaskedPaths: o.MaskedPaths, ReadonlyPaths: o.ReadonlyPaths, UserNS: o.UserNS, Groups: o.Groups, ReadOnly: o.ReadOnly, CgroupParent: o.CgroupParent, StopTimeout: o.StopTimeout,
		AutoRemove: o.AutoRemove, Resources: o.Resources, StdinOnce: o.StdinOnce, Log: o.Log, Docker: o.Docker,
	}
	if o.StopSignal != "" {
		c.StopSignal = o.StopSignal
	}
	entrypoint, cmd := ic.Entrypoint, ic.Cmd
	if o.Entrypoint != nil {
		entrypoint, cmd = nil, nil
		if !slices.Equal(o.Entrypoint, []string{""}) {
			entrypoint = o.Entrypoint
		}
	}
	if len(o.Args) > 0 {
		cmd = o.Args
	}
	c.Entrypoint = entrypoint
	c.Args = append(append([]string{}, entrypoint...), cmd...)
	if len(c.Args) == 0 {
		return nil, ErrNoCommand
	}
	if o.Cwd != "" {
		c.Cwd = o.Cwd
	}
	if c.Cwd == "" {
		c.Cwd = "/"
	}
	if !path.IsAbs(c.Cwd) {
		return nil, fmt.Errorf("the working directory %q is invalid: it needs to be an absolute path", c.Cwd)
	}
	c.Cwd = path.Clean(c.Cwd)
	if o.User != "" {
		c.User = o.User
	}
	if c.Network == "" {
		c.Network = sandbox.NetworkBridge
	}
	c.Env = MergeEnv(ic.Env, o.Env)
	for _, labels := range []map[string]string{ic.Labels, o.Labels} {
		for k, v := range labels {
			c.Labels[k] = v
		}
	}
	return c, nil
}

// MergeEnv sets the variables of over in base, keeping the order; a KEY without a value is
// removed.
func MergeEnv(base, over []string) []string {
	env := append([]string{}, base...)
	for _, kv := range over {
		key, _, set := strings.Cut(kv, "=")
		kept, found := env[:0], false
		for _, old := range env {
			if k, _, _ := strings.Cut(old, "="); k != key {
				kept = append(kept, old)
			} else if set && !found {
				kept, found = append(kept, kv), true
			}
		}
		if env = kept; set && !found {
			env = append(env, kv)
		}
	}
	return env
}

// ReadConfig returns what a container runs.
func ReadConfig(c store.Container) (*Config, error) {
	var config Config
	if err := json.Unmarshal(c.Config, &config); err != nil {
		return nil, fmt.Errorf("reading the record of container %s: %w", c.Name, err)
	}
	return &config, nil
}

// NewLogConfig reads a log driver with its options, by their names in Docker.
func NewLogConfig(driver string, options map[string]string) (c LogConfig, err error) {
	switch driver {
	case "", "json-file", "local", logNone:
		c.Driver = driver
	default:
		return c, fmt.Errorf("logger: no log driver named '%s' is registered: there are json-file and none", driver)
	}
	for k, v := range options {
		switch k {
		case "max-size":
			if c.MaxSize, err = units.FromHumanSize(v); err == nil && c.MaxSize <= 0 {
				err = errors.New("it must be a positive number")
			}
			if err != nil {
				return c, fmt.Errorf("invalid value for max-size: %s: %w", v, err)
			}
		case "max-file", "compress", "mode", "max-buffer-size", "labels", "labels-regex", "env", "env-regex", "tag", "cache-disabled", "cache-max-size", "cache-max-file", "cache-compress": // they decide how much is kept, or nothing
		default:
			return c, fmt.Errorf("unknown log opt '%s' for json-file log driver", k)
		}
	}
	return c, nil
}
