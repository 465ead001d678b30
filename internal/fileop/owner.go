package fileop

import (
	"errors"
	"fmt"
	"io"

	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/sys/user"
	"github.com/slipway-build/slipway/internal/layer"
	"golang.org/x/sys/unix"
)

// maxUserFile bounds /etc/passwd and /etc/group of an image, in bytes.
const maxUserFile = 10 << 20

// findOwner resolves who new files shall belong to; nil: nothing was asked for. A user brings its
// primary group, a user ID the group of the same number; a group alone leaves the user at root.
//
// A name that the image does not have is an error where the Dockerfile gives the owner (--chown), as
// its reference has it. Elsewhere it is root, as in BuildKit: USER may name somebody who is there only
// when the image is run, and WORKDIR makes its directory all the same.
func findOwner(opt *pb.ChownOpt, strict bool, input func(int64) (layer.Tree, error)) (*owner, error) {
	if opt == nil {
		return nil, nil
	}
	var own owner
	switch u := opt.GetUser().GetUser().(type) {
	case *pb.UserOpt_ByID:
		own = owner{UID: u.ByID, GID: u.ByID}
	case *pb.UserOpt_ByName:
		f, err := openUsers(u.ByName, "/etc/passwd", input)
		if err != nil {
			return nil, fmt.Errorf("looking up user %q: %w", u.ByName.Name, err)
		}
		defer f.Close()
		found, err := user.ParsePasswdFilter(f, func(x user.User) bool { return x.Name == u.ByName.Name })
		if err != nil {
			return nil, fmt.Errorf("looking up user %q: %w", u.ByName.Name, err)
		}
		switch {
		case len(found) > 0:
			own = owner{UID: uint32(found[0].Uid), GID: uint32(found[0].Gid)}
		case strict:
			return nil, fmt.Errorf("unknown user %q: /etc/passwd of the image does not have it (use a numeric ID or add the user first)", u.ByName.Name)
		}
	}
	switch g := opt.GetGroup().GetUser().(type) {
	case *pb.UserOpt_ByID:
		own.GID = g.ByID
	case *pb.UserOpt_ByName:
		f, err := openUsers(g.ByName, "/etc/group", input)
		if err != nil {
			return nil, fmt.Errorf("looking up group %q: %w", g.ByName.Name, err)
		}
		defer f.Close()
		found, err := user.ParseGroupFilter(f, func(x user.Group) bool { return x.Name == g.ByName.Name })
		if err != nil {
			return nil, fmt.Errorf("looking up group %q: %w", g.ByName.Name, err)
		}
		switch {
		case len(found) > 0:
			own.GID = uint32(found[0].Gid)
		case strict:
			return nil, fmt.Errorf("unknown group %q: /etc/group of the image does not have it (use a numeric ID or add the group first)", g.ByName.Name)
		}
	}
	return &own, nil
}

// openUsers opens a user database of the input that a name refers to. A missing one is empty.
func openUsers(name *pb.NamedUserOpt, file string, input func(int64) (layer.Tree, error)) (io.ReadCloser, error) {
	t, err := input(name.Input)
	if err != nil {
		return nil, err
	}
	f, err := layer.Open(t, file)
	if missing(err) || errors.Is(err, unix.ENOTDIR) {
		return layer.Bytes(nil).Open()
	}
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(f, maxUserFile), f}, nil
}
