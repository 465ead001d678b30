package engine

import (
	"fmt"

	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/entitlements"

	"github.com/slipway-build/slipway/internal/graph"
)

// Permit checks that the run may evaluate an edge: that it has the entitlements for all vertices
// that the edge needs, those in the cache too.
func (r *Run) Permit(e graph.Edge) error {
	seen := map[*graph.Vertex]bool{nil: true}
	var permit func(v *graph.Vertex) error
	permit = func(v *graph.Vertex) error {
		if seen[v] {
			return nil
		}
		seen[v] = true
		if r.owner(v) != r {
			return nil // it was permitted there
		}
		for _, in := range v.Inputs {
			if err := permit(in.Vertex); err != nil {
				return err
			}
		}
		if exec := v.Op.GetExec(); exec != nil {
			if err := r.permitExec(exec); err != nil {
				for _, s := range v.Sources {
					err = s.WrapError(err)
				}
				return err
			}
		}
		return nil
	}
	return permit(e.Vertex)
}

func (r *Run) permitExec(op *pb.ExecOp) error {
	if err := pb.ValidateSecurityMode(op.Security); err != nil {
		return err
	}
	if _, ok := pb.NetMode_name[int32(op.Network)]; !ok {
		return fmt.Errorf("invalid network mode %d", op.Network)
	}
	values := entitlements.Values{
		NetworkHost:      op.Network == pb.NetMode_HOST,
		SecurityInsecure: op.Security == pb.SecurityMode_INSECURE,
	}
	if err := r.opt.Entitlements.Check(values); err != nil {
		return fmt.Errorf("%w: give the build --allow with what it is to be allowed", err)
	}
	for _, d := range op.CdiDevices {
		if d.Optional {
			continue // a machine may not have it
		}
		return fmt.Errorf("RUN --device=%s is not supported: slipway gives steps no devices by the Container Device Interface; a RUN --security=insecure can open the host's devices", d.Name)
	}
	return nil
}
