package frontend

import (
	"maps"
	"slices"
	"strings"

	"github.com/moby/buildkit/client/llb/sourceresolver"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	srctypes "github.com/moby/buildkit/source/types"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// What is asked of sources, and told of them, in the protocol's words.

// SourceOptions are those of a request which its kind of source has.
func SourceOptions(req *gwpb.ResolveSourceMetaRequest) sourceresolver.Opt {
	opt := sourceresolver.Opt{LogName: req.LogName, SourcePolicies: req.SourcePolicies}
	scheme, _, _ := strings.Cut(req.Source.Identifier, "://")
	switch scheme {
	case srctypes.DockerImageScheme:
		opt.ImageOpt = &sourceresolver.ResolveImageOpt{
			ResolveMode: req.ResolveMode, Platform: platformFrom(req.Platform), NoConfig: req.Image.GetNoConfig(),
			AttestationChain: req.Image.GetAttestationChain(), ResolveAttestations: slices.Clone(req.Image.GetResolveAttestations()),
		}
	case srctypes.OCIScheme:
		opt.OCILayoutOpt = &sourceresolver.ResolveOCILayoutOpt{Platform: platformFrom(req.Platform), Store: sourceresolver.ResolveImageConfigOptStore{
			SessionID: req.Source.Attrs[pb.AttrOCILayoutSessionID], StoreID: req.Source.Attrs[pb.AttrOCILayoutStoreID],
		}}
	}
	if req.Git != nil {
		opt.GitOpt = &sourceresolver.ResolveGitOpt{ReturnObject: req.Git.ReturnObject}
	}
	if sum := req.HTTP.GetChecksumRequest(); sum != nil {
		opt.HTTPOpt = &sourceresolver.ResolveHTTPOpt{ChecksumReq: &sourceresolver.ResolveHTTPChecksumRequest{
			Algo: checksumAlgorithm(sum.Algo), Suffix: slices.Clone(sum.Suffix),
		}}
	}
	return opt
}

func checksumAlgorithm(a gwpb.ChecksumRequest_ChecksumAlgo) sourceresolver.ResolveHTTPChecksumAlgo {
	switch a {
	case gwpb.ChecksumRequest_CHECKSUM_ALGO_SHA256:
		return sourceresolver.ResolveHTTPChecksumAlgoSHA256
	case gwpb.ChecksumRequest_CHECKSUM_ALGO_SHA384:
		return sourceresolver.ResolveHTTPChecksumAlgoSHA384
	case gwpb.ChecksumRequest_CHECKSUM_ALGO_SHA512:
		return sourceresolver.ResolveHTTPChecksumAlgoSHA512
	}
	return sourceresolver.ResolveHTTPChecksumAlgo(a) // which is none, as the source says
}

// SourceMeta is what is known of a source, in the protocol's words.
func SourceMeta(in *sourceresolver.MetaResponse) *gwpb.ResolveSourceMetaResponse {
	out := &gwpb.ResolveSourceMetaResponse{Source: in.Op}
	if i := in.Image; i != nil {
		out.Image = &gwpb.ResolveSourceImageResponse{Digest: string(i.Digest), Config: i.Config, AttestationChain: attestationChain(i.AttestationChain)}
	}
	if g := in.Git; g != nil {
		out.Git = &gwpb.ResolveSourceGitResponse{
			Checksum: g.Checksum, Ref: g.Ref, CommitChecksum: g.CommitChecksum, CommitObject: g.CommitObject, TagObject: g.TagObject,
		}
	}
	if h := in.HTTP; h != nil {
		out.HTTP = &gwpb.ResolveSourceHTTPResponse{Checksum: h.Digest.String(), Filename: h.Filename}
		if h.LastModified != nil {
			out.HTTP.LastModified = timestamppb.New(*h.LastModified)
		}
		if sum := h.ChecksumResponse; sum != nil {
			out.HTTP.ChecksumResponse = &gwpb.ChecksumResponse{Digest: sum.Digest, Suffix: slices.Clone(sum.Suffix)}
		}
	}
	return out
}

func attestationChain(in *sourceresolver.AttestationChain) *gwpb.AttestationChain {
	if in == nil {
		return nil
	}
	out := &gwpb.AttestationChain{
		Root: string(in.Root), ImageManifest: string(in.ImageManifest), AttestationManifest: string(in.AttestationManifest), Blobs: map[string]*gwpb.Blob{},
	}
	for _, s := range in.SignatureManifests {
		out.SignatureManifests = append(out.SignatureManifests, string(s))
	}
	for digest, blob := range in.Blobs {
		out.Blobs[string(digest)] = &gwpb.Blob{Data: blob.Data, Descriptor_: &gwpb.Descriptor{
			MediaType: blob.Descriptor.MediaType, Size: blob.Descriptor.Size, Digest: string(blob.Descriptor.Digest), Annotations: maps.Clone(blob.Descriptor.Annotations),
		}}
	}
	return out
}

// platformFrom is nil when nobody says anything.
func platformFrom(p *pb.Platform) *ocispec.Platform {
	if p == nil {
		return nil
	}
	return &ocispec.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant, OSVersion: p.OSVersion, OSFeatures: p.OSFeatures}
}
