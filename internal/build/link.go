package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"

	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	gw "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"

	"github.com/slipway-build/slipway/internal/engine"
	"github.com/slipway-build/slipway/internal/frontend"
)

// A build whose context is another one's result has it as docker buildx gives it to BuildKit's frontend: as an input, which is the
// graph of that result, with the configuration of its image beside it. Nothing of it is exported or packed for that.

// await waits for the results that are contexts of this build, and gives the runs that they are of.
func (b *building) await(ctx context.Context) (runs []*engine.Run, err error) {
	for _, other := range b.links {
		select {
		case <-other.solved:
			runs = append(runs, other.run)
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	return runs, nil
}

// link completes the frontend's options and inputs with what await waited for.
func (b *building) link() (attrs map[string]string, inputs map[string]*pb.Definition, err error) {
	attrs, inputs = b.req.attrs(b.in), maps.Clone(b.req.Inputs)
	if inputs == nil {
		inputs = map[string]*pb.Definition{}
	}
	for name, other := range b.links {
		if len(other.out.Refs) == 0 {
			err = errors.Join(err, b.input(name, "", other, other.out.Ref, attrs, inputs))
		}
		for platform, ref := range other.out.Refs {
			err = errors.Join(err, b.input(name, "::"+platform, other, ref, attrs, inputs))
		}
	}
	return attrs, inputs, err
}

// input makes a result, or a platform's, a context.
func (b *building) input(name, platform string, other *building, ref gw.Reference, attrs map[string]string, inputs map[string]*pb.Definition) error {
	key := "target/" + other.name + platform
	inputs[key], attrs[optNamedContext+name+platform] = nil, "input:"+key // nothing: scratch
	if r, ok := ref.(*frontend.Ref); ok && r != nil {
		inputs[key] = r.Definition()
		b.run.Link(other.run, r.Edge())
	}
	suffix := ""
	if platform != "" {
		suffix = "/" + platform[len("::"):]
	}
	config, ok := other.out.Metadata[exptypes.ExporterImageConfigKey+suffix]
	if !ok {
		return nil
	}
	data, err := json.Marshal(map[string][]byte{exptypes.ExporterImageConfigKey: config})
	if err != nil {
		return fmt.Errorf("linking target %s: %w", other.name, err)
	}
	attrs["input-metadata:"+key] = string(data)
	return nil
}
