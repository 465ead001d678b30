package bridge

import (
	"context"
	"fmt"
	"maps"
	"slices"

	gw "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// held is a container of a client. The bridge's mutex guards it.
type held struct {
	gw.Container      // nil while it is made
	processes    int  // that run
	used         bool // it has had one
}

// NewContainer implements the service.
func (b *Bridge) NewContainer(ctx context.Context, req *gwpb.NewContainerRequest) (_ *gwpb.NewContainerResponse, err error) {
	ctx, leave, err := b.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	creq, err := b.containerRequest(req)
	if err != nil {
		return nil, err
	}
	place, err := b.reserve(req.ContainerID)
	if err != nil {
		return nil, err
	}
	ctr, err := b.client.NewContainer(ctx, creq)
	b.mu.Lock()
	ours := b.containers[req.ContainerID] == place
	switch {
	case err != nil && ours:
		delete(b.containers, req.ContainerID)
	case ours:
		place.Container = ctr
	}
	b.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if !ours { // the client has released it meanwhile, or the build is over
		_ = ctr.Release(context.WithoutCancel(ctx)) // nobody has used it
		return nil, status.Errorf(codes.Canceled, "container %s was released", short(req.ContainerID))
	}
	return &gwpb.NewContainerResponse{}, nil
}

// reserve takes the place of a container that is made.
func (b *Bridge) reserve(id string) (*held, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.containers[id]; ok {
		return nil, status.Errorf(codes.AlreadyExists, "Container %s already exists", short(id))
	}
	if len(b.containers) >= b.limits.Containers {
		return nil, status.Errorf(codes.ResourceExhausted, "the build has %d containers, which is as many as one may have at the same time: release some", len(b.containers))
	}
	place := &held{}
	b.containers[id] = place
	return place, nil
}

// containerRequest checks a request and puts it in Go's words.
func (b *Bridge) containerRequest(req *gwpb.NewContainerRequest) (gw.NewContainerRequest, error) {
	out := gw.NewContainerRequest{
		Hostname: req.Hostname, NetMode: req.Network, ExtraHosts: req.ExtraHosts, Platform: req.Platform, Constraints: req.Constraints,
	}
	invalid := func(format string, args ...any) (gw.NewContainerRequest, error) {
		return out, status.Errorf(codes.InvalidArgument, format, args...)
	}
	if req.ContainerID == "" {
		return invalid("ContainerID required")
	}
	if slices.Contains(req.ExtraHosts, nil) {
		return invalid("invalid nil extra host")
	}
	hasRoot := false
	for i, m := range req.Mounts {
		switch {
		case m == nil:
			return invalid("mount %d is nil", i)
		case m.MountType == pb.MountType_SSH && m.SSHOpt == nil:
			return invalid("SSH mount %q requires options", m.Dest)
		case m.MountType == pb.MountType_SECRET && m.SecretOpt == nil:
			return invalid("secret mount %q requires options", m.Dest)
		case m.MountType == pb.MountType_CACHE && m.CacheOpt == nil:
			return invalid("cache mount %q requires options", m.Dest)
		}
		hasRoot = hasRoot || m.Dest == pb.RootMount
		mount := gw.Mount{
			Selector: m.Selector, Dest: m.Dest, ResultID: m.ResultID, Readonly: m.Readonly, MountType: m.MountType,
			CacheOpt: m.CacheOpt, SecretOpt: m.SecretOpt, SSHOpt: m.SSHOpt,
		}
		if ref, err := b.ref(m.ResultID); err == nil {
			mount.Ref, mount.ResultID = ref, "" // otherwise it is of an error, or of nothing
		}
		out.Mounts = append(out.Mounts, mount)
	}
	if !hasRoot {
		return invalid("root mount is required")
	}
	return out, nil
}

// container finds a container that is there.
func (b *Bridge) container(id string, code codes.Code, format string) (*held, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if ctr := b.containers[id]; ctr != nil && ctr.Container != nil {
		return ctr, nil
	}
	return nil, status.Error(code, fmt.Sprintf(format, short(id)))
}

// ReleaseContainer implements the service.
func (b *Bridge) ReleaseContainer(ctx context.Context, req *gwpb.ReleaseContainerRequest) (*gwpb.ReleaseContainerResponse, error) {
	ctx, leave, err := b.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	b.mu.Lock()
	ctr := b.containers[req.ContainerID]
	delete(b.containers, req.ContainerID)
	b.mu.Unlock()
	if ctr == nil {
		return nil, status.Errorf(codes.NotFound, noDetails, short(req.ContainerID))
	}
	if ctr.Container != nil {
		if err := ctr.Release(context.WithoutCancel(ctx)); err != nil {
			return nil, err
		}
	}
	return &gwpb.ReleaseContainerResponse{}, nil
}

// releaseAll releases all containers that there are.
func (b *Bridge) releaseAll() {
	b.mu.Lock()
	all := slices.Collect(maps.Values(b.containers))
	clear(b.containers)
	b.mu.Unlock()
	for _, ctr := range all {
		if ctr.Container != nil {
			_ = ctr.Release(context.WithoutCancel(b.ctx)) // nobody is there to be told
		}
	}
}

// noDetails is BuildKit's error about files of a container that is not there.
const noDetails = "container details for %s not found"

// detailed is the container with an id, for calls about its files.
func (b *Bridge) detailed(id string) (*held, error) {
	return b.container(id, codes.NotFound, noDetails)
}

// ReadFileContainer implements the service.
func (b *Bridge) ReadFileContainer(ctx context.Context, req *gwpb.ReadFileRequest) (*gwpb.ReadFileResponse, error) {
	return about(ctx, b, b.detailed, req.Ref, func(ctx context.Context, ctr *held) (*gwpb.ReadFileResponse, error) {
		return readFile(req, func(r gw.ReadRequest) ([]byte, error) {
			return ctr.ReadFile(ctx, gw.ReadContainerRequest{ReadRequest: r, MountIndex: int(req.MountIndex)})
		})
	})
}

// ReadDirContainer implements the service.
func (b *Bridge) ReadDirContainer(ctx context.Context, req *gwpb.ReadDirRequest) (*gwpb.ReadDirResponse, error) {
	return about(ctx, b, b.detailed, req.Ref, func(ctx context.Context, ctr *held) (*gwpb.ReadDirResponse, error) {
		entries, err := ctr.ReadDir(ctx, gw.ReadDirContainerRequest{
			ReadDirRequest: gw.ReadDirRequest{Path: req.DirPath, IncludePattern: req.IncludePattern}, MountIndex: int(req.MountIndex),
		})
		if err != nil {
			return nil, err
		}
		return &gwpb.ReadDirResponse{Entries: entries}, nil
	})
}

// StatFileContainer implements the service.
func (b *Bridge) StatFileContainer(ctx context.Context, req *gwpb.StatFileRequest) (*gwpb.StatFileResponse, error) {
	return about(ctx, b, b.detailed, req.Ref, func(ctx context.Context, ctr *held) (*gwpb.StatFileResponse, error) {
		stat, err := ctr.StatFile(ctx, gw.StatContainerRequest{StatRequest: gw.StatRequest{Path: req.Path}, MountIndex: int(req.MountIndex)})
		if err != nil {
			return nil, err
		}
		return &gwpb.StatFileResponse{Stat: stat}, nil
	})
}
