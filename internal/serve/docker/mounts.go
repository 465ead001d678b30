package docker

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/mount"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/sandbox"
	"github.com/slipway-build/slipway/internal/view"
)

// maxMounts bounds the mounts of a container.
const maxMounts = 1000

// ownVolume is a volume that a container is to have.
type ownVolume struct {
	container.Volume
	dest         string
	made, noCopy bool // made for it; it gets nothing of the image's
}

// mounts are those of Binds, Mounts, Tmpfs, VolumesFrom and Volumes, and of the image's volumes.
func (c *creating) mounts(ctx context.Context) error {
	for _, text := range c.host.Binds {
		if err := c.bind(ctx, text); err != nil {
			return err
		}
	}
	for _, m := range c.host.Mounts {
		if err := c.mount(ctx, m); err != nil {
			return err
		}
	}
	for dest, options := range c.host.Tmpfs {
		t := &sandbox.Tmpfs{NoExec: true}
		if err := tmpfsOptions(t, options); err != nil {
			return err
		}
		if err := c.add(sandbox.Mount{Dest: dest, Tmpfs: t}); err != nil {
			return err
		}
	}
	for _, text := range slices.Backward(c.host.VolumesFrom) { // of two at the same place the last one counts
		if err := c.from(ctx, text); err != nil {
			return err
		}
	}
	for _, volumes := range []map[string]struct{}{c.config.Volumes, c.img.Config.Config.Volumes} {
		for dest := range volumes {
			if c.has(dest) {
				continue
			}
			if err := c.volume(ctx, "", dest, false, false, nil); err != nil {
				return err
			}
		}
	}
	// One that lies in another one comes after it.
	slices.SortStableFunc(c.opts.Mounts, func(a, b sandbox.Mount) int { return strings.Count(a.Dest, "/") - strings.Count(b.Dest, "/") })
	return nil
}

// has reports whether there is a mount at a path.
func (c *creating) has(dest string) bool {
	return slices.ContainsFunc(c.opts.Mounts, func(m sandbox.Mount) bool { return m.Dest == path.Clean(dest) })
}

// add adds a mount.
func (c *creating) add(m sandbox.Mount) error {
	switch {
	case !path.IsAbs(m.Dest):
		return fmt.Errorf("invalid mount path: '%s' mount path must be absolute", m.Dest)
	case path.Clean(m.Dest) == "/":
		return fmt.Errorf("invalid volume specification: '%s': destination can't be '/'", m.Dest)
	}
	m.Dest = path.Clean(m.Dest)
	if c.has(m.Dest) {
		return fmt.Errorf("Duplicate mount point: %s", m.Dest) //lint:ignore ST1005 Docker's words
	}
	if len(c.opts.Mounts) >= maxMounts {
		return fmt.Errorf("more than %d mounts", maxMounts)
	}
	c.opts.Mounts = append(c.opts.Mounts, m)
	return nil
}

// bind reads SOURCE:DEST[:OPTIONS], where the source is an absolute path or a volume's name.
func (c *creating) bind(ctx context.Context, text string) error {
	parts := strings.Split(text, ":")
	if len(parts) < 2 || len(parts) > 3 || parts[0] == "" {
		return fmt.Errorf("invalid volume specification: '%s'", text)
	}
	readOnly, noCopy := false, false
	if len(parts) == 3 {
		for _, opt := range strings.Split(parts[2], ",") {
			switch opt {
			case "ro":
				readOnly = true
			case "nocopy":
				noCopy = true
			case "", "rw", "z", "Z", "cached", "delegated", "consistent", "rprivate", "private":
			case "shared", "rshared", "slave", "rslave":
				c.warn("Mounts are private: %s of %s has no effect.", opt, parts[1])
			default:
				return fmt.Errorf("invalid mode: %s", opt)
			}
		}
	}
	if !path.IsAbs(parts[0]) {
		return c.volume(ctx, parts[0], parts[1], readOnly, noCopy, nil)
	}
	if err := c.s.mayMount(c.m, sandbox.Mount{Bind: path.Clean(parts[0])}); err != nil { // before anything is looked at there
		return err
	}
	if _, err := os.Stat(parts[0]); errors.Is(err, os.ErrNotExist) { // as dockerd does
		if err := os.MkdirAll(parts[0], 0o755); err != nil {
			return fmt.Errorf("error while creating mount source path '%s': %w", parts[0], err)
		}
	}
	return c.add(sandbox.Mount{Bind: path.Clean(parts[0]), Dest: parts[1], ReadOnly: readOnly})
}

// mount reads one of the mounts that have a field for everything.
func (c *creating) mount(ctx context.Context, m mount.Mount) error {
	switch m.Type {
	case mount.TypeBind:
		if !path.IsAbs(m.Source) {
			return fmt.Errorf("invalid mount config for type \"bind\": invalid mount path: '%s' mount path must be absolute", m.Source)
		}
		if err := c.s.mayMount(c.m, sandbox.Mount{Bind: path.Clean(m.Source)}); err != nil {
			return err
		}
		if _, err := os.Stat(m.Source); err != nil {
			if m.BindOptions == nil || !m.BindOptions.CreateMountpoint {
				return fmt.Errorf("invalid mount config for type \"bind\": bind source path does not exist: %s", m.Source)
			}
			if err := os.MkdirAll(m.Source, 0o755); err != nil {
				return err
			}
		}
		if err := c.bindOptions(m); err != nil {
			return err
		}
		return c.add(sandbox.Mount{Bind: path.Clean(m.Source), Dest: m.Target, ReadOnly: m.ReadOnly})
	case mount.TypeTmpfs:
		t := &sandbox.Tmpfs{NoExec: true}
		if o := m.TmpfsOptions; o != nil {
			t.Size, t.Mode = o.SizeBytes, uint32(o.Mode.Perm())
		}
		return c.add(sandbox.Mount{Tmpfs: t, Dest: m.Target, ReadOnly: m.ReadOnly})
	case mount.TypeVolume, "":
		noCopy, labels := false, map[string]string(nil)
		if o := m.VolumeOptions; o != nil {
			if d := o.DriverConfig; d != nil && d.Name != "" && d.Name != "local" {
				return noDriver(d.Name)
			}
			if o.Subpath != "" || o.DriverConfig != nil && len(o.DriverConfig.Options) > 0 {
				return failure{http.StatusNotImplemented, "slipway does not serve drivers and parts of volumes"}
			}
			noCopy, labels = o.NoCopy, o.Labels
		}
		return c.volume(ctx, m.Source, m.Target, m.ReadOnly, noCopy, labels)
	}
	return failure{http.StatusNotImplemented, fmt.Sprintf("slipway does not serve mounts of type %q", m.Type)}
}

// from adds the volumes and the host's files that another container has, CONTAINER[:MODE], but where the container has others.
func (c *creating) from(ctx context.Context, text string) error {
	name, mode, _ := strings.Cut(text, ":")
	if name == "" {
		return fmt.Errorf("volumes-from specification cannot be an empty string: %q", text)
	}
	if !slices.Contains([]string{"", "ro", "rw", "z", "Z"}, mode) {
		return fmt.Errorf("invalid mode: %s", mode)
	}
	other, err := view.FindContainer(ctx, c.m.Store, name)
	if err != nil {
		return invalidf("%v", err)
	}
	config, err := container.ReadConfig(other)
	if err != nil {
		return err
	}
	for _, m := range config.Mounts {
		if m.Bind == "" || c.has(m.Dest) {
			continue
		}
		if err := c.add(sandbox.Mount{Bind: m.Bind, Dest: m.Dest, ReadOnly: m.ReadOnly || mode == "ro", Anonymous: m.Anonymous}); err != nil {
			return err
		}
	}
	return nil
}

// bindOptions are about what is mounted below the source: it is there, too, and read-only with it, and nothing is there that is mounted later.
func (c *creating) bindOptions(m mount.Mount) error {
	o := m.BindOptions
	if o == nil {
		return nil
	}
	if o.NonRecursive {
		return failure{http.StatusNotImplemented, "slipway does not serve mounts that are not recursive"}
	}
	switch o.Propagation {
	case "", mount.PropagationPrivate, mount.PropagationRPrivate:
	default:
		c.warn("Mounts are private: %s of %s has no effect.", o.Propagation, m.Target)
	}
	if o.ReadOnlyNonRecursive {
		c.warn("Mounts are read-only with all that is mounted below: %s too.", m.Target)
	}
	return nil
}

// volume adds a volume, which is made if there is none of that name; "" is an anonymous one.
func (c *creating) volume(ctx context.Context, name, dest string, readOnly, noCopy bool, labels map[string]string) error {
	if c.has(dest) {
		return fmt.Errorf("Duplicate mount point: %s", dest) //lint:ignore ST1005 Docker's words
	}
	if len(c.volumes) >= maxMounts { // before one more is made: others wait for the volumes meanwhile
		return fmt.Errorf("more than %d mounts", maxMounts)
	}
	v, made, err := c.m.MakeVolume(ctx, name, labels, name == "")
	if err != nil {
		return err
	}
	c.volumes = append(c.volumes, ownVolume{v, dest, made, noCopy})
	mount := sandbox.Mount{Bind: v.Dir, Dest: dest, ReadOnly: readOnly}
	if name == "" {
		mount.Anonymous = v.Name
	}
	return c.add(mount)
}

// optionsOf are the options of mount(8) that make such a tmpfs.
func optionsOf(t *sandbox.Tmpfs) string {
	var all []string
	if t.Size > 0 {
		all = append(all, "size="+strconv.FormatInt(t.Size, 10))
	}
	if t.Mode > 0 {
		all = append(all, "mode="+strconv.FormatUint(uint64(t.Mode), 8))
	}
	if !t.NoExec {
		all = append(all, "exec")
	}
	return strings.Join(all, ",")
}

// tmpfsOptions reads the options of mount(8) that a tmpfs may have.
func tmpfsOptions(t *sandbox.Tmpfs, options string) (err error) {
	for _, opt := range strings.Split(options, ",") {
		switch key, value, _ := strings.Cut(opt, "="); key {
		case "", "rw", "nosuid", "nodev", "relatime", "noatime":
		case "exec":
			t.NoExec = false
		case "noexec":
			t.NoExec = true
		case "size":
			t.Size, err = units.RAMInBytes(value)
		case "mode":
			var mode uint64
			mode, err = strconv.ParseUint(value, 8, 32)
			t.Mode = uint32(mode) & 0o7777
		default:
			err = errors.New("it is not there: use size, mode, exec, noexec")
		}
		if err != nil {
			return fmt.Errorf("invalid tmpfs option %q: %w", opt, err)
		}
	}
	return nil
}
