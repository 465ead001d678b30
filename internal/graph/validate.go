package graph

import (
	"errors"
	"fmt"
	"slices"

	"github.com/moby/buildkit/solver/pb"
)

// validate finds what an operation lacks that whoever carries it out takes for granted. The rules are BuildKit's
// (solver/llbsolver/ops/opsutils), and that no number of an output is larger than there can be outputs.
func validate(op *pb.Op) error {
	inputs := len(op.Inputs)
	switch o := op.Op.(type) {
	case *pb.Op_Source:
		if inputs > 0 {
			return fmt.Errorf("invalid source op with %d inputs", inputs)
		}
	case *pb.Op_Exec:
		return validateExec(o.Exec)
	case *pb.Op_File:
		if len(o.File.Actions) == 0 {
			return errors.New("invalid file op with no actions")
		}
	case *pb.Op_Merge:
		if n := len(o.Merge.Inputs); n != inputs {
			return fmt.Errorf("invalid merge op with %d inner inputs and %d outer inputs", n, inputs)
		}
	case *pb.Op_Diff:
		if o.Diff.Lower == nil || o.Diff.Upper == nil {
			return errors.New("invalid diff op with nil lower or upper input")
		}
		n := 0
		for _, in := range []int64{o.Diff.Lower.Input, o.Diff.Upper.Input} {
			if in != int64(pb.Empty) {
				n++
			}
		}
		if n != inputs {
			return fmt.Errorf("invalid diff op with %d inner inputs and %d outer inputs", n, inputs)
		}
	case *pb.Op_Passthrough:
		if len(o.Passthrough.Outputs) == 0 {
			return errors.New("invalid passthrough op with no outputs")
		}
	case *pb.Op_Build:
		return errors.New("a graph that a step makes (llbbuild) is not supported: have a client of the gateway read the file and solve it")
	default:
		return errors.New("it does nothing that is known here")
	}
	return nil
}

func validateExec(op *pb.ExecOp) error {
	switch {
	case op.Meta == nil:
		return errors.New("invalid exec op with no meta")
	case len(op.Meta.Args) == 0:
		return errors.New("invalid exec op with no args")
	case !slices.ContainsFunc(op.Mounts, func(m *pb.Mount) bool { return m.Dest == pb.RootMount }):
		return errors.New("invalid exec op with no rootfs")
	}
	for _, m := range op.Mounts {
		if m.Output < int64(pb.SkipOutput) || m.Output >= int64(len(op.Mounts)) {
			return fmt.Errorf("invalid exec op: mount %s is output %d of at most %d", m.Dest, m.Output, len(op.Mounts))
		}
	}
	return nil
}
