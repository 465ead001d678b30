package serve

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client/buildid"
	"github.com/moby/buildkit/client/llb"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/opencontainers/go-digest"
	rpc "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
)

// driven is a build that a client evaluates by calls.
type driven struct {
	cc  *grpc.ClientConn
	ctx context.Context
	end chan error // of the build
}

func (s *server) drive(t *testing.T, cc *grpc.ClientConn, ref string) *driven {
	t.Helper()
	d := &driven{cc: cc, ctx: buildid.AppendToOutgoingContext(t.Context(), ref), end: make(chan error, 1)}
	go func() {
		_, err := s.api.Solve(t.Context(), &controlapi.SolveRequest{Ref: ref, Exporters: []*controlapi.Exporter{{Type: "image", Attrs: map[string]string{"name": "example.com/x"}}}})
		d.end <- err
	}()
	return d
}

// call calls a method of the gateway, which must not take longer than it may.
func (d *driven) call(t *testing.T, what, method string, req, res proto.Message) error {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(d.ctx, time.Minute, errors.New("there is no answer"))
	defer cancel()
	err := d.cc.Invoke(ctx, "/moby.buildkit.v1.frontend.LLBBridge/"+method, req, res)
	if ctx.Err() != nil || err != nil && (strings.Contains(err.Error(), "a bug of") || strings.Contains(err.Error(), "panic")) {
		t.Errorf("%s %s: %v, %v", what, method, err, context.Cause(ctx))
	}
	return err
}

// Whatever a client changes of a call to the gateway of its build, it gets an answer, and the server is there for the next one.
func TestHostileGateway(t *testing.T) {
	nothing := httptest.NewServer(http.NotFoundHandler())
	defer nothing.Close()
	host := strings.TrimPrefix(nothing.URL, "http://")
	s, _ := builds(t)
	cc, err := grpc.NewClient(s.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	defer cc.Close()
	made, err := llb.Scratch().File(llb.Mkdir("/d", 0o755)).File(llb.Mkfile("/d/f", 0o600, []byte("f"))).Marshal(t.Context())
	must(t, err)
	policies := []*spb.Policy{{Version: 1, Rules: []*spb.Rule{{Action: spb.PolicyAction_CONVERT, Selector: &spb.Selector{Identifier: "docker-image://x", MatchType: spb.MatchType_WILDCARD, Constraints: []*spb.AttrConstraint{{Key: "a", Value: "b"}}}, Updates: &spb.Update{Identifier: "docker-image://y", Attrs: map[string]string{"a": "b"}}}}}}
	solve := func() *gwpb.SolveRequest {
		return &gwpb.SolveRequest{Definition: made.ToPB(), AllowResultReturn: true, AllowResultArrayRef: true}
	}
	open := func(n int) (*driven, string) {
		t.Helper()
		d := s.drive(t, cc, fmt.Sprint("r", n))
		res := &gwpb.SolveResponse{}
		must(t, d.call(t, "as it is", "Solve", solve(), res))
		return d, res.GetResult().GetRef().GetId()
	}
	n := 0
	d, ref := open(n)
	results := func(ref string) map[string]*gwpb.Result {
		return map[string]*gwpb.Result{
			"one": {Result: &gwpb.Result_Ref{Ref: &gwpb.Ref{Id: ref}}, Metadata: map[string][]byte{"containerimage.config": []byte(`{"os":"linux","architecture":"amd64"}`), "source.date.epoch": []byte("1")}},
			"several": {
				Result: &gwpb.Result_Refs{Refs: &gwpb.RefMap{Refs: map[string]*gwpb.Ref{"a": {Id: ref}, "b": {Id: ref}}}},
				Metadata: map[string][]byte{
					"refs.platforms": []byte(`{"Platforms":[{"ID":"a","Platform":{"os":"linux","architecture":"amd64"}},{"ID":"b","Platform":{"os":"linux","architecture":"arm64"}}]}`),
				},
				Attestations: map[string]*gwpb.Attestations{"a": {Attestation: []*gwpb.Attestation{{
					Ref: &gwpb.Ref{Id: ref}, Path: "/d/f", InTotoPredicateType: "t", Metadata: map[string][]byte{"reason": []byte("r")},
					InTotoSubjects: []*gwpb.InTotoSubject{{Kind: gwpb.InTotoSubjectKind_Raw, Digest: []string{digest.FromString("x").String()}, Name: "n"}},
				}}}},
			},
			"three platforms of one": {Result: &gwpb.Result_Ref{Ref: &gwpb.Ref{Id: ref}}, Metadata: map[string][]byte{
				"refs.platforms": []byte(`{"Platforms":[{"ID":"..","Platform":{"os":"linux","architecture":"amd64"}},{"ID":"..","Platform":{"os":"linux","architecture":"arm64"}},{"ID":"\u0000","Platform":{"os":"x","architecture":"y"}}]}`),
			}},
			"nothing": {},
		}
	}
	for method, req := range map[string]proto.Message{
		"Solve": &gwpb.SolveRequest{
			Definition: made.ToPB(), AllowResultReturn: true, AllowResultArrayRef: true, FrontendOpt: map[string]string{"a": "b"}, FrontendInputs: map[string]*pb.Definition{"context": made.ToPB()},
			CacheImports: []*gwpb.CacheOptionsEntry{{Type: "registry", Attrs: map[string]string{"ref": host + "/x"}}}, Evaluate: true, SourcePolicies: policies,
		},
		"ResolveImageConfig": &gwpb.ResolveImageConfigRequest{Ref: host + "/x", Platform: &pb.Platform{OS: "linux", Architecture: "amd64"}, ResolveMode: "default", LogName: "n", SourcePolicies: policies},
		"ResolveSourceMeta": &gwpb.ResolveSourceMetaRequest{
			Source: &pb.SourceOp{Identifier: "http://" + host + "/x", Attrs: map[string]string{"http.checksum": "x"}}, Platform: &pb.Platform{OS: "linux", Architecture: "amd64"}, LogName: "n",
			Git: &gwpb.ResolveSourceGitRequest{ReturnObject: true}, Image: &gwpb.ResolveSourceImageRequest{NoConfig: true}, HTTP: &gwpb.ResolveSourceHTTPRequest{ChecksumRequest: &gwpb.ChecksumRequest{}}, SourcePolicies: policies,
		},
		"ReadFile": &gwpb.ReadFileRequest{Ref: ref, FilePath: "/d/f", Range: &gwpb.FileRange{Offset: 0, Length: 1}},
		"ReadDir":  &gwpb.ReadDirRequest{Ref: ref, DirPath: "/d", IncludePattern: "*"},
		"StatFile": &gwpb.StatFileRequest{Ref: ref, Path: "/d/f"},
		"Evaluate": &gwpb.EvaluateRequest{Ref: ref},
		"Inputs":   &gwpb.InputsRequest{},
		"NewContainer": &gwpb.NewContainerRequest{
			ContainerID: "c", Mounts: []*pb.Mount{{Dest: "/", ResultID: ref}, {Dest: "/c", Input: -1, MountType: pb.MountType_CACHE, CacheOpt: &pb.CacheOpt{ID: "i"}}}, Platform: &pb.Platform{OS: "linux", Architecture: "amd64"},
			Constraints: &pb.WorkerConstraints{Filter: []string{"a"}}, ExtraHosts: []*pb.HostIP{{Host: "h", IP: "1.2.3.4"}}, Hostname: "h",
		},
		"ReleaseContainer":  &gwpb.ReleaseContainerRequest{ContainerID: "c"},
		"StatFileContainer": &gwpb.StatFileRequest{Ref: "c", Path: "/d/f"},
		"ReadFileContainer": &gwpb.ReadFileRequest{Ref: "c", FilePath: "/d/f", Range: &gwpb.FileRange{Length: 1}},
		"ReadDirContainer":  &gwpb.ReadDirRequest{Ref: "c", DirPath: "/d"},
		"Warn": &gwpb.WarnRequest{
			Digest: digest.FromString("x").String(), Level: 1, Short: []byte("s"), Detail: [][]byte{[]byte("d")}, Url: "u",
			Info: &pb.SourceInfo{Filename: "f", Data: []byte("d"), Definition: &pb.Definition{}}, Ranges: []*pb.Range{{Start: &pb.Position{Line: 1}, End: &pb.Position{Line: 1}}},
		},
	} {
		for i := 0; ; i++ {
			c, k := proto.Clone(req), i
			if i > 0 {
				if k--; !change(c.ProtoReflect(), &k) {
					break
				}
			}
			n++
			_ = d.call(t, fmt.Sprintf("change %d: %v", i, c), method, c, &gwpb.PongResponse{})
		}
	}
	_ = d.call(t, "at the end", "Return", &gwpb.ReturnRequest{Result: results(ref)["one"]}, &gwpb.ReturnResponse{})
	must(t, <-d.end)
	// Results end a build each.
	ends, fine, ended := 0, 0, &gwpb.ReturnRequest{Error: &rpc.Status{Code: 2, Message: "it is the end"}}
	for name := range results("") {
		for i := 0; ; i++ {
			ends++
			d, ref := open(n + ends)
			req, k := &gwpb.ReturnRequest{Result: results(ref)[name]}, i-1
			if i > 0 && !change(req.ProtoReflect(), &k) {
				must(t, d.call(t, "at the end", "Return", ended, &gwpb.ReturnResponse{}))
				<-d.end
				break
			}
			if err := d.call(t, fmt.Sprintf("change %d: %v", i, req), "Return", req, &gwpb.ReturnResponse{}); err != nil { // it is none
				must(t, d.call(t, "at the end", "Return", ended, &gwpb.ReturnResponse{}))
			}
			if err := <-d.end; err == nil {
				fine++
			} else if strings.Contains(err.Error(), "internal error") || strings.Contains(err.Error(), "panic") {
				t.Errorf("returning %v: %v", req, err)
			}
		}
	}
	t.Logf("%d calls, and %d results, %d of which are delivered", n, ends, fine)
	if n < 300 || ends < 50 || fine < 10 {
		t.Errorf("%d calls, and %d results, %d of which are delivered: it tests little", n, ends, fine)
	}
}
