package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/cache/bucket"
	"github.com/slipway-build/slipway/internal/outbound"
	"github.com/slipway-build/slipway/internal/registry"
	"github.com/slipway-build/slipway/internal/store"
)

// bucketAt is a cache in a bucket of S3, or of what speaks like it, with BuildKit's keys: an object for each blob,
// and one for each name of the index.
type bucketAt struct {
	opts           bucket.Options
	blobs, indexes string // prefixes of keys
	names          []string
	refresh        time.Duration // older blobs are touched, so that no rule of the bucket deletes them
}

func s3To(t *To, attrs map[string]string) (location, error) {
	b, err := parseS3(attrs)
	if err != nil {
		return nil, fmt.Errorf("failed to configure s3 cache exporter: %w", err)
	}
	if v, ok := attrs["upload_parallelism"]; ok {
		if t.parallel, err = strconv.Atoi(v); err != nil || t.parallel <= 0 {
			return nil, errors.New("failed to configure s3 cache exporter: upload_parallelism must be a positive integer")
		}
		t.parallel = min(t.parallel, maxParallel)
	}
	return b, t.parseEncoding(attrs)
}

func s3From(attrs map[string]string) (location, error) {
	b, err := parseS3(attrs)
	if err != nil {
		return nil, fmt.Errorf("failed to configure s3 cache importer: %w", err)
	}
	return b, nil
}

// s3Environment adds what the environment has. Keys are looked for later where none are named, but not for somebody else.
func s3Environment(attrs map[string]string, env func(string) (string, bool)) (missing string) {
	for _, f := range []struct{ attr, name string }{
		{"bucket", "AWS_BUCKET"}, {"region", "AWS_REGION"}, {"endpoint_url", "AWS_ENDPOINT_URL_S3"}, {"endpoint_url", "AWS_ENDPOINT_URL"},
	} {
		if v, ok := env(f.name); ok && attrs[f.attr] == "" {
			attrs[f.attr] = v
		}
	}
	return ""
}

// parseS3 reads attributes by BuildKit's rules.
func parseS3(attrs map[string]string) (*bucketAt, error) {
	get := func(attr, def string) string {
		if v, ok := attrs[attr]; ok {
			return v
		}
		return def
	}
	b := &bucketAt{
		opts: bucket.Options{
			Bucket: attrs["bucket"], Region: attrs["region"], Endpoint: attrs["endpoint_url"],
			Keys: bucket.Keys{ID: attrs["access_key_id"], Secret: attrs["secret_access_key"], Session: attrs["session_token"]},
		},
		blobs: attrs["prefix"] + get("blobs_prefix", "blobs/"), indexes: attrs["prefix"] + get("manifests_prefix", "manifests/"),
		names: strings.Split(get("name", "buildkit"), ";"), refresh: 24 * time.Hour,
	}
	switch {
	case b.opts.Bucket == "":
		return nil, errors.New("bucket ($AWS_BUCKET) not set for s3 cache")
	case b.opts.Region == "":
		return nil, errors.New("region ($AWS_REGION) not set for s3 cache")
	}
	// BuildKit passes over values of these that it cannot read.
	b.opts.PathStyle, _ = strconv.ParseBool(attrs["use_path_style"])
	if d, err := time.ParseDuration(attrs["touch_refresh"]); err == nil {
		b.refresh = d
	}
	if v, ok := attrs["retry_mode"]; ok && v != "standard" && v != "adaptive" {
		return nil, errors.New(`retry_mode must be "standard" or "adaptive"`)
	}
	if v, ok := attrs["retry_max_attempts"]; ok {
		var err error
		if b.opts.Attempts, err = strconv.Atoi(v); err != nil || b.opts.Attempts < 1 {
			return nil, errors.New("retry_max_attempts must be a positive integer")
		}
	}
	return b, nil
}

func (b *bucketAt) title() string { return "exporting cache to Amazon S3" }
func (b *bucketAt) name() string  { return "s3:" + b.opts.Bucket + "/" + b.indexes + b.names[0] }

func (b *bucketAt) where() string {
	return fmt.Sprintf("%q %q %q %q %q", outbound.Redact(b.opts.Endpoint), b.opts.Region, b.opts.Bucket, b.blobs, b.indexes+b.names[0])
}

func (b *bucketAt) open(*store.Store, *registry.Client) (place, error) {
	c, err := bucket.New(b.opts)
	return &objects{bucketAt: b, client: c}, err
}

// objects is what is kept there.
type objects struct {
	*bucketAt
	client *bucket.Client
	blind  atomic.Bool // what is there cannot be found out: see [bucket.Hidden]
}

func (o *objects) load(ctx context.Context, _ platforms.MatchComparer, tell func(string)) (*contents, error) {
	key := o.indexes + o.names[0]
	r, err := o.read(ctx, key, -1)
	if errdefs.IsNotFound(err) {
		line := "no cache at " + key
		if bucket.Hidden(err) {
			line = "WARNING: " + line + " that may be read: " + err.Error()
		}
		tell(line)
		return decode(nil, nil), nil
	}
	if err != nil {
		return nil, err
	}
	data, err := readIndex(r)
	if err != nil {
		return nil, err
	}
	tell("found cache at " + key)
	return decodeConfig(data, unlisted)
}

func (o *objects) open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	return o.read(ctx, o.blobs+desc.Digest.String(), desc.Size)
}

func (o *objects) read(ctx context.Context, key string, size int64) (io.ReadCloser, error) {
	return resume(ctx, size, func(ctx context.Context, offset int64) (io.ReadCloser, error) { return o.client.Open(ctx, key, offset) })
}

func (o *objects) put(ctx context.Context, desc ocispec.Descriptor, open opener) error {
	key := o.blobs + desc.Digest.String()
	size, when, err := o.client.Stat(ctx, key)
	if bucket.Hidden(err) {
		o.blind.Store(true)
	}
	switch {
	case err != nil && !errdefs.IsNotFound(err):
		return err
	case err != nil, size != desc.Size:
		return o.client.Put(ctx, key, desc.Digest, desc.Size, open)
	case time.Since(when) > o.refresh:
		return o.client.Touch(ctx, key)
	}
	return nil
}

func (o *objects) commit(ctx context.Context, x *exporting, _ []ocispec.Descriptor) (ocispec.Descriptor, error) {
	if o.blind.Load() {
		x.tell("WARNING: all layers were sent: the keys may not find out what bucket "+o.opts.Bucket+" has (403 Forbidden): give them s3:ListBucket", true)
	}
	data, err := x.marshal()
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return ocispec.Descriptor{}, x.telling("sending cache export", func() error {
		for _, name := range o.names {
			if err := o.client.Put(ctx, o.indexes+name, digest.FromBytes(data), int64(len(data)), bytesOpener(data)); err != nil {
				return fmt.Errorf("error writing manifest: %s: %w", name, err)
			}
		}
		return nil
	})
}
