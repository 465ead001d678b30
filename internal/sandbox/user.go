package sandbox

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	securejoin "github.com/cyphar/filepath-securejoin"
	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"
)

// maxUserFile is how much of /etc/passwd and /etc/group is read, in bytes: these files come
// from images that nobody vouches for.
const maxUserFile = 10 << 20

// lookupUser resolves a user in the form of [Spec.User] in a root filesystem. Additional groups
// are given when the user is looked up by its name or number alone.
func lookupUser(root, name string) (*user.ExecUser, error) {
	passwd, err := openUserFile(root, "/etc/passwd")
	if err != nil {
		return nil, err
	}
	defer passwd.Close()
	group, err := openUserFile(root, "/etc/group")
	if err != nil {
		return nil, err
	}
	defer group.Close()
	defaults := &user.ExecUser{Home: "/"}
	u, err := user.GetExecUser(name, defaults, passwd, group)
	if err != nil {
		return nil, fmt.Errorf("looking up user %q in the /etc/passwd and /etc/group of the root filesystem: %w", name, err)
	}
	return u, nil
}

// addGroups adds groups, by name or number, to those of a user.
func addGroups(root string, u *user.ExecUser, names []string) error {
	if len(names) == 0 {
		return nil
	}
	group, err := openUserFile(root, "/etc/group")
	if err != nil {
		return err
	}
	defer group.Close()
	gids, err := user.GetAdditionalGroups(names, group)
	if err != nil {
		return fmt.Errorf("looking up additional groups %v in the /etc/group of the root filesystem: %w", names, err)
	}
	slices.Sort(gids)
	for _, gid := range gids {
		if !slices.Contains(u.Sgids, gid) {
			u.Sgids = append(u.Sgids, gid)
		}
	}
	return nil
}

// openUserFile opens a regular file of the root filesystem; a missing one is empty.
func openUserFile(root, name string) (io.ReadCloser, error) {
	path, err := securejoin.SecureJoin(root, name)
	if err != nil {
		return nil, fmt.Errorf("resolving %s: %w", name, err)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return io.NopCloser(eof{}), nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s of the root filesystem: %w", name, err)
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(fmt.Errorf("reading %s of the root filesystem: not a regular file", name), err, f.Close())
	}
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(f, maxUserFile), f}, nil
}

type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }
