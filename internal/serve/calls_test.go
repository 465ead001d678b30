package serve

import (
	"context"
	"strings"
	"testing"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/slipway-build/slipway/internal/progress"
	"github.com/slipway-build/slipway/internal/serve/control"
)

// Whatever a client changes of the other calls, no call is at its end because of a bug.
func TestHostileCalls(t *testing.T) {
	s := start(t, func(context.Context, control.Solve, progress.Sink) (*control.Result, error) { return nil, nil }, func(c *control.Options, _ *Options, _ *server) { c.JobWait = time.Nanosecond })
	cc, err := grpc.NewClient(s.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	defer cc.Close()
	_, err = s.api.Solve(t.Context(), &controlapi.SolveRequest{Ref: "r", Frontend: "dockerfile.v0"})
	must(t, err)
	log := s.history(t, &controlapi.BuildHistoryRequest{EarlyExit: true})[0].Record.Logs.Digest
	const ctl, content = "/moby.buildkit.v1.Control/", "/containerd.services.content.v1.Content/"
	filter, n := []string{"type==regular,size>1"}, 0
	for method, req := range map[string]proto.Message{
		ctl + "DiskUsage":          &controlapi.DiskUsageRequest{Filter: filter, AgeLimit: 1},
		ctl + "Prune":              &controlapi.PruneRequest{Filter: filter, All: true, KeepDuration: 1, ReservedSpace: 1, MaxUsedSpace: 1, MinFreeSpace: 1},
		ctl + "Status":             &controlapi.StatusRequest{Ref: "r"},
		ctl + "ListWorkers":        &controlapi.ListWorkersRequest{Filter: []string{"id==x"}},
		ctl + "Info":               &controlapi.InfoRequest{},
		ctl + "ListenBuildHistory": &controlapi.BuildHistoryRequest{ActiveOnly: true, Ref: "r", EarlyExit: true, Filter: []string{"status==error"}, Limit: 1},
		ctl + "UpdateBuildHistory": &controlapi.UpdateBuildHistoryRequest{Ref: "r", Pinned: true, Finalize: true},
		content + "Info":           &contentapi.InfoRequest{Digest: log},
		content + "List":           &contentapi.ListContentRequest{Filters: []string{"digest==" + log}},
		content + "Read":           &contentapi.ReadContentRequest{Digest: log, Offset: 1, Size: 1},
		content + "Delete":         &contentapi.DeleteContentRequest{Digest: log},
		content + "Status":         &contentapi.StatusRequest{Ref: "x"},
		content + "ListStatuses":   &contentapi.ListStatusesRequest{Filters: filter},
		content + "Abort":          &contentapi.AbortRequest{Ref: "x"},
		content + "Update":         &contentapi.UpdateRequest{Info: &contentapi.Info{Digest: log, Size: 1, Labels: map[string]string{"a": "b"}}},
		content + "Write":          &contentapi.WriteContentRequest{Action: contentapi.WriteAction_COMMIT, Ref: "x", Expected: digest.FromString("").String(), Labels: map[string]string{"a": "b"}},
	} {
		for i := 0; ; i++ {
			c, k := proto.Clone(req), i-1
			if i > 0 && !change(c.ProtoReflect(), &k) {
				break
			}
			n++
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			stream, err := cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
			if err == nil {
				err = stream.SendMsg(c)
			}
			if err == nil {
				_ = stream.CloseSend()
				if _, err = stream.Header(); err == nil && !strings.HasSuffix(method, "ListenBuildHistory") { // who listens may be told nothing
					err = stream.RecvMsg(&controlapi.InfoResponse{})
				}
			}
			if err != nil && strings.Contains(err.Error(), "internal error") || ctx.Err() != nil {
				t.Errorf("%s with change %d, %v: %v", method, i, c, err)
			}
			cancel()
		}
	}
	if n < 100 {
		t.Errorf("there are %d calls: it tests little", n)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.warned != nil {
		t.Errorf("the server warns of %q", s.warned)
	}
}
