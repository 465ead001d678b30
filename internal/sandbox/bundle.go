package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	securejoin "github.com/cyphar/filepath-securejoin"
	"github.com/moby/sys/user"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/overlay"
	"golang.org/x/sys/unix"
)

// bundle is a container that is ready to be executed: its root and the sources of its mounts are
// mounted in the namespace of the calling thread.
type bundle struct {
	dir    string // of this run alone
	spec   *Spec
	ids    *idMap // of its user namespace; nil: it has the host's
	rootfs string
	oci    *specs.Spec
	// guarded says that rules guard devices; devices, that filesystems need not be mounted nodev.
	guarded, devices bool

	foreign bool   // an OCI runtime executes it
	watched bool   // who wants to know of its filesystems of layers wants overlays
	aside   string // where the root filesystem is of a process that has no namespaces
	// given are the streams that the process has, null is the path of a null device for the others; ownDev says that
	// the process sees one of its own at /dev/null.
	given  [3]bool
	null   string
	ownDev bool
	// cwdInMount: the working directory is to be made when everything is mounted.
	cwdInMount bool
	cgroup     cgroups.Manager // nil: there is none but the guard's

	uppers []string // of mounted roots
	owned  *owned   // nil: owners are what they are

	scratch string              // a tmpfs with all that is mounted
	mounted bool                // scratch is
	roots   int                 // of mounts
	shared  map[string]string   // mounted roots of mounts, by their layers
	layered []string            // all of them
	shown   map[string]string   // where directories of the host are with the namespace's owners
	sockets []net.Listener      // of mounts
	nodes   []specs.LinuxDevice // of an insecure container; nil: not looked for yet
	ends    ends                // of the filesystems that are final
	// elsewhere are changes that come to their directories at the end.
	elsewhere []elsewhere
}

// scratchName is the name of the directory of a run on which a filesystem in memory is mounted.
const scratchName = "scratch"

// bundleOptions are what a bundle is of its runner and of its streams, as [bundle] has it.
type bundleOptions struct{ guarded, foreign, watched bool }

// newBundle mounts and resolves everything that spec names. The bundle is to be closed also
// after an error.
func newBundle(dir string, spec *Spec, mapping *idMap, conn *connection, opt bundleOptions) (b *bundle, err error) {
	b = &bundle{dir: dir, spec: spec, ids: mapping, foreign: opt.foreign, watched: opt.watched, guarded: opt.guarded, devices: opt.guarded || spec.Insecure, scratch: filepath.Join(dir, scratchName),
		shared: map[string]string{}, shown: map[string]string{}}
	b.rootfs = filepath.Join(b.scratch, "rootfs")
	back, err := b.ids.become()
	if err != nil {
		return b, err
	}
	defer func() { err = errors.Join(err, back()) }()
	if err := b.mountScratch(); err != nil {
		return b, err
	}
	files, err := makeFiles(b.scratch, spec)
	if err != nil {
		return b, err
	}
	mounts, err := b.resolveMounts(withoutHidden(standardMounts(spec, files, b.devices), spec.Mounts))
	if err != nil {
		return b, err
	}
	nodes, err := b.nodeMounts(mounts)
	if err != nil {
		return b, err
	}
	b.ownDev = slices.ContainsFunc(mounts, isDev) && !slices.ContainsFunc(mounts, func(m specs.Mount) bool { return m.Destination == "/dev/null" })
	mounts = append(mounts, nodes...)
	var points []mountPoint
	for _, m := range mounts {
		if within(m.Destination, mounts) == "" {
			points = append(points, mountPoint{m.Destination, isFile(m), ownerAbove(spec, m.Destination)})
		}
	}
	if err := b.mountRoot(b.rootfs, spec.Root, points); err != nil {
		return b, err
	}
	root, err := openRoot(b.rootfs)
	if err != nil {
		return b, err
	}
	defer root.Close()
	user, err := lookupUser(root, spec.User)
	if err == nil {
		err = addGroups(root, user, spec.Groups)
	}
	if err != nil {
		return b, err
	}
	if err := b.makeCwd(root, mounts, user); err != nil {
		return b, err
	}
	// From here on the thread is in the container's network, which was made meanwhile.
	there, err := conn.enter(spec)
	if err != nil {
		return b, err
	}
	b.spec = there
	if err := setSysctls(there); err != nil {
		return b, err
	}
	if err := files.write(b.spec, conn.resolv); err != nil {
		return b, err
	}
	if mounts, err = b.premount(root, mounts); err != nil {
		return b, err
	}
	if b.oci, err = ociSpec(b.rootfs, b.spec, user, mounts); err == nil {
		b.oci.Linux.Devices = b.insecureDevices()
		b.ids.describe(b.oci.Linux)
		b.owned, err = newOwned(b)
	}
	return b, err
}

// mountScratch makes the place for everything that only this thread and the container need to
// see. It is in memory, so that the disk has no work with it and a crash leaves nothing; and all
// other mounts are below it, so that they go with it. It is not nodev: device nodes are bound from it.
func (b *bundle) mountScratch() error {
	if err := os.Mkdir(b.scratch, 0o711); err != nil {
		return fmt.Errorf("making a scratch directory: %w", err)
	}
	if err := mountMemory(b.scratch, "mode=711"); err != nil {
		return err
	}
	b.mounted = true
	return nil
}

// mountMemory mounts a filesystem in memory, of which nothing comes to a disk where the kernel can see to that.
func mountMemory(path, plain string) error {
	options := plain
	if !nested() && !noswapRefused.Load() {
		options += ",noswap"
	}
	err := unix.Mount("tmpfs", path, "tmpfs", unix.MS_NOSUID, options)
	if errors.Is(err, unix.EINVAL) && options != plain {
		noswapRefused.Store(true)
		err = unix.Mount("tmpfs", path, "tmpfs", unix.MS_NOSUID, plain)
	}
	if err != nil {
		return &os.PathError{Op: "mount tmpfs", Path: path, Err: err}
	}
	return nil
}

// noswapRefused: the kernel is older than 6.4. It is asked once, as it writes each refusal to its log, and to a console that may be slow; in a
// user namespace it refuses for sure.
var noswapRefused atomic.Bool

// stateDir is where the runtime keeps what it knows of the container.
func (b *bundle) stateDir() string { return filepath.Join(b.scratch, "state") }

// resolveMounts appends the mounts of the spec to the standard ones.
func (b *bundle) resolveMounts(mounts []specs.Mount) ([]specs.Mount, error) {
	all := slices.Clone(mounts)
	for _, m := range b.spec.Mounts {
		all = append(all, specs.Mount{Destination: filepath.Clean(m.Dest)})
		if m.Bind != "" {
			all[len(all)-1].Type, all[len(all)-1].Source = "bind", m.Bind
		}
	}
	own := all[len(mounts):]
	if err := b.makeFiles(own); err != nil {
		return nil, err
	}
	for i, m := range b.spec.Mounts {
		var om specs.Mount
		var err error
		dest := filepath.Clean(m.Dest)
		switch {
		case m.Tmpfs != nil:
			om = tmpfsMount(dest, m, b.devices)
		case m.File != nil || m.Socket != nil:
			om = own[i]
		case m.Bind != "":
			om, err = bindMount(dest, m.Bind, m.ReadOnly, b.devices)
			if m.Mapped && b.ids != nil {
				om.UIDMappings, om.GIDMappings = ociMapping(b.ids.UIDMaps), ociMapping(b.ids.GIDMaps)
			}
		default:
			om, err = b.rootMount(dest, m, all)
		}
		if err != nil {
			return nil, err
		}
		mounts = append(mounts, om)
	}
	return mounts, nil
}

// ownerAbove is whose directories are that are made for a mount.
func ownerAbove(spec *Spec, dest string) *Owner {
	for _, m := range spec.Mounts {
		if filepath.Clean(m.Dest) == dest {
			return m.Above
		}
	}
	return nil
}

// rootMount mounts the layers of m and selects from them.
func (b *bundle) rootMount(dest string, m Mount, all []specs.Mount) (specs.Mount, error) {
	var points []mountPoint
	for _, other := range all {
		if within(other.Destination, all) == dest {
			rest := strings.TrimPrefix(other.Destination, dest)
			points = append(points, mountPoint{path: filepath.Join("/", m.Selector, rest), file: isFile(other)})
		}
	}
	key := strings.Join(append(slices.Clone(m.Root.Lower), m.Root.Upper), "\x00")
	target, ok := b.shared[key]
	if !ok || len(points) > 0 {
		target = filepath.Join(b.scratch, fmt.Sprint("mount-", b.roots))
		b.roots++
		if err := b.mountRoot(target, *m.Root, points); err != nil {
			return specs.Mount{}, fmt.Errorf("mount at %s: %w", dest, err)
		}
		b.shared[key] = target
		b.layered = append(b.layered, target)
	}
	source, err := securejoin.SecureJoin(target, m.Selector)
	if err != nil {
		return specs.Mount{}, fmt.Errorf("mount at %s: resolving %s: %w", dest, m.Selector, err)
	}
	om, err := bindMount(dest, source, m.ReadOnly || m.Root.Upper == "", b.devices)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("mount at %s: source %s: %w", dest, m.Selector, fs.ErrNotExist)
	}
	return om, err
}

// mountRoot mounts root at target with all the mount points that it will need.
func (b *bundle) mountRoot(target string, root Root, points []mountPoint) error {
	if err := os.Mkdir(target, 0o755); err != nil {
		return fmt.Errorf("making a mount point: %w", err)
	}
	root, err := b.shifted(root)
	if err != nil {
		return err
	}
	opt := overlay.Options{NoDev: !b.devices, UserXattr: nested()}
	lower := root.Lower
	stubDir := target + ".stubs"
	if err := makeDir(stubDir); err != nil {
		return fmt.Errorf("making the layer of mount points: %w", err)
	}
	visible, err := probeLayers(root)
	if err != nil {
		return err
	}
	if len(visible) > 0 {
		if err := overlay.Mount(target, visible, "", "", opt); err != nil {
			return err
		}
	}
	needed, err := makeStubs(target, stubDir, points)
	if len(visible) > 0 {
		err = errors.Join(err, unmount(target))
	}
	if err != nil {
		return err
	}
	switch {
	case needed || len(lower) == 0:
		lower = append(slices.Clone(lower), stubDir)
	case b.watched && len(lower) == 1: // below, where it shows nothing
		lower = []string{stubDir, lower[0]}
	}
	if root.Upper != "" && b.recordsOthers() { // a container has what it was given, and what it ran before has left
		if err := layer.Settle(root.Upper); err != nil {
			return err
		}
	}
	err = overlay.Mount(target, lower, root.Upper, root.Work, opt)
	if err != nil && root.Upper != "" && b.ids == nil && isOverlay(root.Upper) {
		err = b.mountElsewhere(target, lower, root.Upper, opt)
	}
	switch {
	case err != nil && b.ids != nil:
		err = fmt.Errorf("%w (in a user namespace this needs Linux 5.19: --userns=host does without)", err)
	case err == nil && root.Final:
		err = b.ends.watch(target)
	}
	if root.Upper != "" {
		b.uppers = append(b.uppers, root.Upper)
	}
	return err
}

// probeLayers are the layers as which root is looked at before it is mounted: with the upper
// directory if there is something in it.
func probeLayers(root Root) ([]string, error) {
	if root.Upper == "" {
		return root.Lower, nil
	}
	empty, err := isEmpty(root.Upper)
	if err != nil {
		return nil, fmt.Errorf("reading the upper directory: %w", err)
	}
	if empty {
		return root.Lower, nil
	}
	return append(slices.Clone(root.Lower), root.Upper), nil
}

// isEmpty reports whether there is nothing in a directory.
func isEmpty(path string) (bool, error) {
	d, err := openFile(path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return false, err
	}
	defer d.Close()
	buf := make([]byte, 4096)
	n, err := unix.ReadDirent(d.fd, buf)
	if err != nil {
		return false, &os.PathError{Op: "getdents", Path: path, Err: err}
	}
	_, _, names := unix.ParseDirent(buf[:n], 1, nil) // without . and ..
	return len(names) == 0, nil
}

// makeCwd makes the working directory, owned by the process's user, unless it lies in a mount: there it is
// made later, because only then the mount is there.
func (b *bundle) makeCwd(root *opened, mounts []specs.Mount, u *user.ExecUser) error {
	cwd := filepath.Join("/", b.spec.Cwd)
	b.cwdInMount = within(cwd, mounts) != ""
	if cwd == "/" || slices.ContainsFunc(mounts, func(m specs.Mount) bool { return m.Destination == cwd }) || b.cwdInMount {
		return nil
	}
	uid, gid, err := b.ids.host(u.Uid, u.Gid)
	if err == nil {
		err = makeOwned(root, cwd, uid, gid)
	}
	if err != nil {
		return fmt.Errorf("making working directory %s: %w", cwd, err)
	}
	return nil
}

// makeOwned makes a directory of root and those above it that are missing, all with one owner.
func makeOwned(root *opened, path string, uid, gid int) error {
	rel, err := resolveInRoot(root, path)
	if err != nil {
		return err
	}
	parts := strings.Split(rel, "/")
	there := len(parts) // how many of them there are
	dir, err := openResolved(root, rel, unix.O_PATH)
	for errors.Is(err, fs.ErrNotExist) && there > 0 {
		there--
		dir, err = openResolved(root, filepath.Join(parts[:there]...), unix.O_PATH)
	}
	for _, name := range parts[there:] {
		if err != nil {
			break
		}
		var sub *opened
		if sub, err = makeDirAt(dir, name); err == nil {
			err = errors.Join(own(sub.fd, uid, gid), dir.Close())
			dir = sub
		}
	}
	if dir != nil {
		dir.Close()
	}
	return err
}

// own gives a directory or a file an owner, which is recorded where it cannot have that one.
func own(fd int, uid, gid int) error {
	err := unix.Fchown(fd, uid, gid)
	if (err == unix.EINVAL || err == unix.EPERM) && (uid != 0 || gid != 0) && (oneID() || os.Geteuid() != 0) {
		return os.NewSyscallError("fsetxattr", unix.Fsetxattr(fd, layer.OwnerRecord, []byte(layer.Record{Owner: layer.Owner{UID: uint32(uid), GID: uint32(gid)}}.String()), 0))
	}
	if os.Geteuid() != 0 && err == unix.EPERM {
		return nil
	}
	return notOwned(err)
}

// within is the innermost mount that path, a clean absolute path, lies in; "" if there is none.
func within(path string, mounts []specs.Mount) (innermost string) {
	for _, m := range mounts {
		if strings.HasPrefix(path, m.Destination+"/") && len(m.Destination) > len(innermost) {
			innermost = m.Destination
		}
	}
	return innermost
}

// isFile reports whether the source of a mount is something else than a directory.
func isFile(m specs.Mount) bool {
	if m.Type != "bind" {
		return false
	}
	info, err := os.Stat(m.Source)
	return err == nil && !info.IsDir()
}

// close unmounts, so that the upper directories are free for whoever called us. It removes no
// files: what a process had is not touched any more.
func (b *bundle) close() error {
	var errs []error
	for _, l := range b.sockets {
		errs = append(errs, l.Close())
	}
	if b.mounted {
		errs = append(errs, unmount(b.scratch))
	}
	return errors.Join(errs...)
}

func unmount(target string) error {
	if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
		return &os.PathError{Op: "unmount", Path: target, Err: err}
	}
	return nil
}
