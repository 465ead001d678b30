package sandbox

import (
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/slipway-build/slipway/internal/layer"
	"golang.org/x/sys/unix"
)

// makeFiles makes the files and sockets that mounts show, and completes these mounts; mounts are
// those of the spec, in its order.
func (b *bundle) makeFiles(mounts []specs.Mount) (err error) {
	for i, m := range b.spec.Mounts {
		path := filepath.Join(b.scratch, fmt.Sprint("file-", i))
		options := []string{"bind", "nosuid", "nodev"}
		switch {
		case m.File != nil:
			err = b.makeFile(path, m.File)
			options = append(options, "ro")
			if m.File.Mode&0o111 == 0 {
				options = append(options, "noexec")
			}
		case m.Socket != nil:
			err = b.listen(path, m.Socket)
			options = append(options, "noexec")
		default:
			continue
		}
		if err != nil {
			return fmt.Errorf("mount at %s: %w", m.Dest, err)
		}
		mounts[i].Type, mounts[i].Source, mounts[i].Options = "bind", path, options
	}
	return nil
}

func (b *bundle) makeFile(path string, f *File) error {
	if err := os.WriteFile(path, f.Data, 0o600); err != nil {
		return err
	}
	return b.setOwner(path, f.UID, f.GID, f.Mode)
}

func (b *bundle) setOwner(path string, uid, gid int, mode uint32) error {
	uid, gid, err := b.ids.host(uid, gid)
	if err != nil {
		return err
	}
	err = os.Chown(path, uid, gid)
	if err != nil && oneID() { // it is shown nevertheless, where this filesystem can have the record
		_ = unix.Setxattr(path, layer.OwnerRecord, []byte(layer.Record{Owner: layer.Owner{UID: uint32(uid), GID: uint32(gid)}}.String()), 0)
	}
	if err := notOwned(err); err != nil {
		return err
	}
	return os.Chmod(path, os.FileMode(mode).Perm())
}

// listen makes a socket. Its path would be too long for one, so it is reached through a
// descriptor of its directory.
func (b *bundle) listen(path string, s *Socket) error {
	dir, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: filepath.Dir(path), Err: err}
	}
	defer unix.Close(dir)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir, filepath.Base(path))})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false) // it goes with the scratch directory
	b.sockets = append(b.sockets, l)
	if err := b.setOwner(path, s.UID, s.GID, s.Mode); err != nil {
		return err
	}
	return s.Serve(l)
}
