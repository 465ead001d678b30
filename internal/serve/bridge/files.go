package bridge

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"

	"github.com/containerd/containerd/v2/defaults"
	gw "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maxFile is how much of a file one answer has. A client that asks for one byte more gets it, and knows that there is more.
const maxFile = defaults.DefaultMaxSendMsgSize

// ReadFile implements the service.
func (b *Bridge) ReadFile(ctx context.Context, req *gwpb.ReadFileRequest) (*gwpb.ReadFileResponse, error) {
	return about(ctx, b, b.ref, req.Ref, func(ctx context.Context, ref gw.Reference) (*gwpb.ReadFileResponse, error) {
		return readFile(req, func(r gw.ReadRequest) ([]byte, error) { return ref.ReadFile(ctx, r) })
	})
}

// readFile reads a file, or the part of it that a request is about, if that is not too large for an answer.
func readFile(req *gwpb.ReadFileRequest, read func(gw.ReadRequest) ([]byte, error)) (*gwpb.ReadFileResponse, error) {
	part, limited := gw.FileRange{Length: maxFile + 1}, true
	if r := req.Range; r != nil {
		if r.Offset < 0 || r.Length < 0 || r.Offset > math.MaxInt64-r.Length {
			return nil, status.Errorf(codes.InvalidArgument, "invalid range for %s", req.FilePath)
		}
		limited = r.Length > maxFile+1
		part.Offset, part.Length = int(r.Offset), int(min(r.Length, maxFile+1))
	}
	data, err := read(gw.ReadRequest{Filename: req.FilePath, Range: &part})
	if err != nil {
		return nil, missing(err, req.FilePath)
	}
	if limited && len(data) > maxFile {
		return nil, fmt.Errorf("%s exceeds maximum allowed size of %d bytes", req.FilePath, maxFile)
	}
	return &gwpb.ReadFileResponse{Data: data}, nil
}

// ReadDir implements the service.
func (b *Bridge) ReadDir(ctx context.Context, req *gwpb.ReadDirRequest) (*gwpb.ReadDirResponse, error) {
	return about(ctx, b, b.ref, req.Ref, func(ctx context.Context, ref gw.Reference) (*gwpb.ReadDirResponse, error) {
		entries, err := ref.ReadDir(ctx, gw.ReadDirRequest{Path: req.DirPath, IncludePattern: req.IncludePattern})
		if err != nil {
			return nil, err
		}
		return &gwpb.ReadDirResponse{Entries: entries}, nil
	})
}

// StatFile implements the service.
func (b *Bridge) StatFile(ctx context.Context, req *gwpb.StatFileRequest) (*gwpb.StatFileResponse, error) {
	return about(ctx, b, b.ref, req.Ref, func(ctx context.Context, ref gw.Reference) (*gwpb.StatFileResponse, error) {
		stat, err := ref.StatFile(ctx, gw.StatRequest{Path: req.Path})
		if err != nil {
			return nil, missing(err, req.Path)
		}
		return &gwpb.StatFileResponse{Stat: stat}, nil
	})
}

// maxPath is how much of a path an error has.
const maxPath = 4096

// missing is an error about a file that is not there in the words of BuildKit's daemon, by which its clients know it.
func missing(err error, path string) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return &fs.PathError{Op: "lstat", Path: path[:min(len(path), maxPath)], Err: unix.ENOENT}
}
