// Program frontend is a frontend that is an image, for tests. What it does is the option "mode".
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	gw "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/frontend/gateway/grpcclient"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
)

func main() {
	fmt.Fprintln(os.Stderr, "the frontend speaks")
	if strings.Contains(strings.Join(os.Environ(), " "), "mode=garbage") {
		fmt.Println("this is no way to speak")
		time.Sleep(time.Hour)
	}
	if err := grpcclient.RunFromEnvironment(context.Background(), run); err != nil {
		fmt.Fprintln(os.Stderr, "the frontend failed:", err)
		os.Exit(4)
	}
}

func run(ctx context.Context, c gw.Client) (*gw.Result, error) {
	opts := c.BuildOpts().Opts
	switch opts["build-arg:mode"] {
	case "exit":
		os.Exit(3)
	case "wait":
		select {}
	case "error":
		src := &errdefs.Source{Info: &pb.SourceInfo{Filename: "File", Data: []byte("line")}, Ranges: []*pb.Range{{Start: &pb.Position{Line: 1}, End: &pb.Position{Line: 1}}}}
		return nil, errdefs.WithSource(errors.New("the frontend does not like it"), src)
	case "nested":
		delete(opts, "cmdline")
		delete(opts, "source")
		opts["cmdline"] = "x" // it has read the syntax line
		return c.Solve(ctx, gw.SolveRequest{Frontend: "dockerfile.v0", FrontendOpt: opts})
	case "loop":
		return c.Solve(ctx, gw.SolveRequest{Frontend: "gateway.v0", FrontendOpt: opts})
	case "failing":
		def, err := llb.Image("busybox").Run(llb.Shlex("sh -c 'exit 9'")).Root().Marshal(ctx)
		if err != nil {
			return nil, err
		}
		if _, err := c.Solve(ctx, gw.SolveRequest{Definition: def.ToPB(), Evaluate: true}); err == nil {
			return nil, errors.New("a step that fails has no error")
		}
	case "container":
		if err := container(ctx, c); err != nil {
			return nil, err
		}
	}
	st, err := c.(interface {
		CurrentFrontend() (*llb.State, error)
	}).CurrentFrontend()
	if err != nil || st == nil {
		return nil, fmt.Errorf("the frontend does not know itself: %v, %w", st, err)
	}
	res, err := solve(ctx, c, llb.Image("busybox").Run(llb.Args([]string{"sh", "-c", "echo made by a frontend for " + opts["build-arg:name"] + " > /made"})).Root())
	if err != nil {
		return nil, err
	}
	ws := c.BuildOpts().Workers
	if len(ws) != 1 || len(ws[0].Platforms) == 0 || c.BuildOpts().SessionID == "" || c.BuildOpts().Product == "" {
		return nil, fmt.Errorf("the frontend is told %+v", c.BuildOpts())
	}
	config, err := json.Marshal(map[string]any{"os": "linux", "architecture": ws[0].Platforms[0].Architecture, "config": map[string]any{"Labels": map[string]string{"by": "frontend"}}})
	if err != nil {
		return nil, err
	}
	res.AddMeta(exptypes.ExporterImageConfigKey, config)
	return res, nil
}

func solve(ctx context.Context, c gw.Client, st llb.State) (*gw.Result, error) {
	def, err := st.Marshal(ctx)
	if err != nil {
		return nil, err
	}
	return c.Solve(ctx, gw.SolveRequest{Definition: def.ToPB()})
}

type output struct{ bytes.Buffer }

func (*output) Close() error { return nil }

// container runs processes in a container.
func container(ctx context.Context, c gw.Client) error {
	res, err := solve(ctx, c, llb.Image("busybox"))
	if err != nil {
		return err
	}
	ctr, err := c.NewContainer(ctx, gw.NewContainerRequest{Mounts: []gw.Mount{{Dest: "/", Ref: res.Ref}}})
	if err != nil {
		return err
	}
	defer ctr.Release(ctx) //nolint:errcheck // it is over
	var out output
	p, err := ctr.Start(ctx, gw.StartRequest{Args: []string{"cat"}, Stdin: io.NopCloser(strings.NewReader("through a process")), Stdout: &out})
	if err != nil {
		return err
	}
	if err := p.Wait(); err != nil || out.String() != "through a process" {
		return fmt.Errorf("a process gave %q, %w", out.String(), err)
	}
	return nil
}
