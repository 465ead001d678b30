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
	"github.com/slipway-build/slipway/internal/view"
)

func versionOf(v client.BuildkitVersion) *apitypes.BuildkitVersion {
	return &apitypes.BuildkitVersion{Package: v.Package, Version: v.Version, Revision: v.Revision, DockerfileVersion: v.DockerfileVersion}
}

// Info tells the version.
func (s *Server) Info(context.Context, *controlapi.InfoRequest) (*controlapi.InfoResponse, error) {
	return &controlapi.InfoResponse{BuildkitVersion: versionOf(s.opt.Version)}, nil
}

// ListWorkers tells of the one worker, if the filters take it.
func (s *Server) ListWorkers(_ context.Context, req *controlapi.ListWorkersRequest) (*controlapi.ListWorkersResponse, error) {
	f, err := filters.ParseAll(req.Filter...)
	if err != nil {
		return nil, invalidf("reading filters %q: %w", req.Filter, err)
	}
	b, release, err := s.opt.Acquire()
	if err != nil {
		return nil, err
	}
	defer release()
	w, err := s.opt.Worker(b.Store)
	if err != nil {
		return nil, err
	}
	if !f.Match(fieldsOf(w)) {
		return &controlapi.ListWorkersResponse{}, nil
	}
	rec := &apitypes.WorkerRecord{ID: w.ID, Labels: w.Labels, Platforms: pb.PlatformsFromSpec(w.Platforms), BuildkitVersion: versionOf(s.opt.Version)}
	for _, p := range w.Policies {
		rec.GCPolicy = append(rec.GCPolicy, &apitypes.GCPolicy{
			All: p.All, Filters: p.Filter, KeepDuration: int64(p.KeepDuration),
			ReservedSpace: p.ReservedSpace, MaxUsedSpace: p.MaxUsedSpace, MinFreeSpace: p.MinFreeSpace,
		})
	}
	return &controlapi.ListWorkersResponse{Record: []*apitypes.WorkerRecord{rec}}, nil
}

// fieldsOf gives containerd's filters a worker.
func fieldsOf(w *view.Worker) filters.Adaptor {
	return filters.AdapterFunc(func(path []string) (string, bool) {
		switch {
		case len(path) == 1 && path[0] == "id":
			return w.ID, true
		case len(path) > 1 && path[0] == "labels":
			v, ok := w.Labels[strings.Join(path[1:], ".")]
			return v, ok
		}
		return "", false
	})
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
	if _, err := store.FilterCache(nil, req.Filter...); err != nil {
		return nil, invalidf("%w", err)
	}
	running, _ := s.jobs.run()
	all, err := view.CacheRecords(ctx, b.Store, view.CacheFilter{Unused: time.Duration(req.AgeLimit), By: req.Filter, Beside: running > 0})
	if err != nil {
		return nil, err
	}
	res := &controlapi.DiskUsageResponse{}
	for _, r := range all {
		res.Record = append(res.Record, usageRecord(&r))
	}
	return res, nil
}

// Prune lets go what a policy takes of the cache, beside builds that run.
func (s *Server) Prune(req *controlapi.PruneRequest, stream controlapi.Control_PruneServer) error {
	if req.KeepDuration < 0 || req.ReservedSpace < 0 || req.MaxUsedSpace < 0 || req.MinFreeSpace < 0 {
		return invalidf("a limit is negative")
	}
	if _, err := store.FilterCache(nil, req.Filter...); err != nil {
		return invalidf("%w", err)
	}
	pruned, err := s.prune(stream.Context(), req)
	for _, r := range pruned.Records { // to one who may not read
		if serr := stream.Send(usageRecord(&r)); serr != nil {
			return serr
		}
	}
	return err
}

// prune lets go what nobody uses. A store says of what it has used since it was opened that it uses it: of builds that are over nobody does.
func (s *Server) prune(ctx context.Context, req *controlapi.PruneRequest) (pruned store.Pruned, _ error) {
	if err := s.Renew(ctx); err != nil {
		return pruned, err
	}
	b, release, err := s.opt.Acquire()
	if err != nil {
		return pruned, err
	}
	defer release()
	space := func(n int64) store.Space { return store.Space{Bytes: n} }
	return b.Store.PruneBeside(ctx, store.Policy{
		All: req.All, KeepDuration: time.Duration(req.KeepDuration), Filters: req.Filter,
		ReservedSpace: space(req.ReservedSpace), MaxUsedSpace: space(req.MaxUsedSpace), MinFreeSpace: space(req.MinFreeSpace),
	})
}
