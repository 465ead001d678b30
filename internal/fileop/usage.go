package fileop

import (
	"fmt"

	"github.com/moby/buildkit/solver/pb"
)

// InputUsage tells how an operation uses one of its inputs.
type InputUsage struct {
	// Whole: the input is the base of an action, or a user name is looked up in it.
	Whole bool
	// Copies select files from it, in the order of the actions.
	Copies []*pb.FileActionCopy
}

// Usage tells for each of an operation's inputs how it is used. An index that is out of range is
// an error.
func Usage(op *pb.FileOp, inputs int) ([]InputUsage, error) {
	usage := make([]InputUsage, inputs)
	limit := int64(inputs + len(op.Actions))
	whole := func(i int64) {
		if i >= 0 && i < int64(inputs) {
			usage[i].Whole = true
		}
	}
	for n, a := range op.Actions {
		if a.Input < -1 || a.Input >= limit || a.SecondaryInput < -1 || a.SecondaryInput >= limit {
			return nil, fmt.Errorf("reading file operation: action %d has inputs %d and %d of %d", n, a.Input, a.SecondaryInput, limit)
		}
		whole(a.Input)
		for _, name := range names(a) {
			if name.Input < 0 { // BuildKit's words come first
				return nil, fmt.Errorf("invalid user index %d: there is no image to look up %q in (use a numeric ID)", name.Input, name.Name)
			}
			if name.Input >= limit {
				return nil, fmt.Errorf("reading file operation: action %d looks up %q in input %d of %d", n, name.Name, name.Input, limit)
			}
			whole(name.Input)
		}
		if c := a.GetCopy(); c != nil && a.SecondaryInput >= 0 && a.SecondaryInput < int64(inputs) {
			i := a.SecondaryInput
			usage[i].Copies = append(usage[i].Copies, c)
		}
	}
	return usage, nil
}

// names are the user and group names that an action looks up.
func names(a *pb.FileAction) []*pb.NamedUserOpt {
	var opt *pb.ChownOpt
	switch x := a.Action.(type) {
	case *pb.FileAction_Copy:
		opt = x.Copy.Owner
	case *pb.FileAction_Mkdir:
		opt = x.Mkdir.Owner
	case *pb.FileAction_Mkfile:
		opt = x.Mkfile.Owner
	case *pb.FileAction_Symlink:
		opt = x.Symlink.Owner
	}
	var out []*pb.NamedUserOpt
	for _, u := range []*pb.UserOpt{opt.GetUser(), opt.GetGroup()} {
		if n := u.GetByName(); n != nil {
			out = append(out, n)
		}
	}
	return out
}
