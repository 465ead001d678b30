package control

import (
	"context"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/pkg/filters"
	controlapi "github.com/moby/buildkit/api/services/control"
	apitypes "github.com/moby/buildkit/api/types"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/solver/pb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/slipway-build/slipway/internal/store"
)

func versionOf(v client.BuildkitVersion) *apitypes.BuildkitVersion {
	return &apitypes.BuildkitVersion{Package: v.Package, Version: v.Version, Revision: v.Revision, DockerfileVersion: v.DockerfileVersion}
}

// Info tells the version.
func (s *Server) Info(context.Context, *controlapi.InfoRequest) (*controlapi.InfoResponse, error) {
	return &controlapi.InfoResponse{BuildkitVersion: versionOf(s.opt.Worker.Version)}, nil
}

// ListWorkers tells of the one worker, if the filters take it.
func (s *Server) ListWorkers(_ context.Context, req *controlapi.ListWorkersRequest) (*controlapi.ListWorkersResponse, error) {
	w := &s.opt.Worker
	f, err := filters.ParseAll(req.Filter...)
	if err != nil {
		return nil, invalidf("reading filters %q: %w", req.Filter, err)
	}
	if !f.Match(filters.AdapterFunc(w.field)) {
		return &controlapi.ListWorkersResponse{}, nil
	}
	rec := &apitypes.WorkerRecord{ID: w.ID, Labels: w.Labels, Platforms: pb.PlatformsFromSpec(w.Platforms()), BuildkitVersion: versionOf(w.Version)}
	b, release, err := s.opt.Acquire()
	if err != nil {
		return nil, err
	}
	defer release()
	if rec.GCPolicy, err = w.policies(b.Store); err != nil {
		return nil, err
	}
	return &controlapi.ListWorkersResponse{Record: []*apitypes.WorkerRecord{rec}}, nil
}

func (w *Worker) field(path []string) (string, bool) {
	switch {
	case len(path) == 1 && path[0] == "id":
		return w.ID, w.ID != ""
	case len(path) > 1 && path[0] == "labels":
		v, ok := w.Labels[strings.Join(path[1:], ".")]
		return v, ok
	}
	return "", false
}

// policies are those of the cache, with percents of the disk as bytes.
func (w *Worker) policies(st *store.Store) ([]*apitypes.GCPolicy, error) {
	policies, err := w.Policies(st)
	if err != nil {
		return nil, err
	}
	disk, _, err := st.Disk()
	if err != nil {
		return nil, err
	}
	all := []*apitypes.GCPolicy{}
	for _, p := range policies {
		all = append(all, &apitypes.GCPolicy{
			All: p.All, Filters: p.Filters, KeepDuration: int64(p.KeepDuration),
			ReservedSpace: p.ReservedSpace.Of(disk), MaxUsedSpace: p.MaxUsedSpace.Of(disk), MinFreeSpace: p.MinFreeSpace.Of(disk),
		})
	}
	return all, nil
}

// usageRecord is a record of the cache in the API's form.
func usageRecord(r *store.CacheRecord) *controlapi.UsageRecord {
	u := &controlapi.UsageRecord{
		ID: r.ID, Mutable: r.Mutable, InUse: r.InUse, Size: r.Size, Parents: r.Parents, UsageCount: int64(r.Uses),
		Description: r.Description, CreatedAt: timestamppb.New(r.Created), RecordType: r.Type, Shared: r.Shared,
	}
	if !r.LastUsed.IsZero() {
		u.LastUsedAt = timestamppb.New(r.LastUsed)
	}
	return u
}

// DiskUsage lists the records of the cache.
func (s *Server) DiskUsage(ctx context.Context, req *controlapi.DiskUsageRequest) (*controlapi.DiskUsageResponse, error) {
	if req.AgeLimit < 0 {
		return nil, invalidf("invalid age limit %d", req.AgeLimit)
	}
	b, release, err := s.opt.Acquire()
	if err != nil {
		return nil, err
	}
	defer release()
	all, err := b.Store.CacheRecords(ctx)
	if err != nil {
		return nil, err
	}
	if all, err = store.FilterCache(all, req.Filter...); err != nil {
		return nil, invalidf("%w", err)
	}
	res := &controlapi.DiskUsageResponse{}
	since := time.Now().Add(-time.Duration(req.AgeLimit))
	for _, r := range all {
		if req.AgeLimit == 0 || !r.LastUsed.After(since) {
			res.Record = append(res.Record, usageRecord(&r))
		}
	}
	return res, nil
}

// Prune lets go what a policy takes of the cache, beside builds that run.
func (s *Server) Prune(req *controlapi.PruneRequest, stream controlapi.Control_PruneServer) error {
	if req.KeepDuration < 0 || req.ReservedSpace < 0 || req.MaxUsedSpace < 0 || req.MinFreeSpace < 0 {
		return invalidf("a limit is negative")
	}
	b, release, err := s.opt.Acquire()
	if err != nil {
		return err
	}
	defer release()
	if _, err := store.FilterCache(nil, req.Filter...); err != nil {
		return invalidf("%w", err)
	}
	space := func(n int64) store.Space { return store.Space{Bytes: n} }
	pruned, err := b.Store.PruneBeside(stream.Context(), store.Policy{
		All: req.All, KeepDuration: time.Duration(req.KeepDuration), Filters: req.Filter,
		ReservedSpace: space(req.ReservedSpace), MaxUsedSpace: space(req.MaxUsedSpace), MinFreeSpace: space(req.MinFreeSpace),
	})
	for _, r := range pruned.Records {
		if serr := stream.Send(usageRecord(&r)); serr != nil {
			return serr
		}
	}
	return err
}
