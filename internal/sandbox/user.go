package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"
)

// maxUserFile is how much of /etc/passwd and /etc/group is read, in bytes: these files come
// from images that nobody vouches for.
const maxUserFile = 10 << 20

// userError is about a user that the root filesystem does not have.
type userError struct{ error }

func (e *userError) Unwrap() error { return e.error }

// lookupUser resolves a user in the form of [Spec.User] in a root filesystem. Additional groups
// are given when the user is looked up by its name or number alone.
func lookupUser(root *opened, name string) (*user.ExecUser, error) {
	u, _, err := FindUser(name, func(file string) (io.ReadCloser, error) { return openUserFile(root, file) })
	return u, err
}

// FindUser resolves a user in the form of [Spec.User] by the files /etc/passwd and /etc/group, which open gives: empty ones where there are none. named
// is the name that the user has there; "": none.
func FindUser(name string, open func(file string) (io.ReadCloser, error)) (u *user.ExecUser, named string, err error) {
	var files [2][]byte
	for i, file := range []string{"/etc/passwd", "/etc/group"} {
		f, err := open(file)
		if err != nil {
			return nil, "", err
		}
		files[i], err = io.ReadAll(io.LimitReader(f, maxUserFile))
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, "", fmt.Errorf("reading %s of the root filesystem: %w", file, err)
		}
	}
	u, err = user.GetExecUser(name, &user.ExecUser{Home: "/"}, bytes.NewReader(files[0]), bytes.NewReader(files[1]))
	if err != nil {
		return nil, "", &userError{fmt.Errorf("%w\n  user %q is looked up in /etc/passwd and /etc/group of the image: give a number, or add the user first", err, name)}
	}
	same := func(other user.User) bool { return other.Uid == u.Uid }
	if all, err := user.ParsePasswdFilter(bytes.NewReader(files[0]), same); err == nil && len(all) > 0 {
		named = all[0].Name
	}
	return u, named, nil
}

// addGroups adds groups, by name or number, to those of a user.
func addGroups(root *opened, u *user.ExecUser, names []string) error {
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

// openUserFile opens a regular file of the root filesystem; a missing one is empty. What it is is
// known before it is opened: opening a device alone can do something.
func openUserFile(root *opened, name string) (io.ReadCloser, error) {
	place, err := openInRoot(root, name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return io.NopCloser(eof{}), nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s of the root filesystem: %w", name, err)
	}
	defer place.Close()
	var st unix.Stat_t
	err = unix.Fstat(place.fd, &st)
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = errors.New("not a regular file")
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s of the root filesystem: %w", name, err)
	}
	f, err := reopen(place, unix.O_RDONLY)
	if err != nil {
		return nil, fmt.Errorf("reading %s of the root filesystem: %w", name, err)
	}
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(f, maxUserFile), f}, nil
}

type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }
