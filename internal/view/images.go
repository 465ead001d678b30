package view

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"time"

	"github.com/distribution/reference"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/store"
)

// ImageFilter chooses images by their names. Each field that is not empty has to let a name through; the meaning is that
// of Docker's `image ls --filter`.
type ImageFilter struct {
	Dangling      []bool      // whether it is no name, but an image without one; each of them
	References    []string    // patterns, one of which the name has to match
	Labels        []string    // KEY or KEY=VALUE, all of which the image has to have
	NotLabels     []string    // none of which it may have
	Before, Since []string    // images, all of which have to be newer, or older
	Until         []time.Time // it is older than all of them
}

// ParseImageFilter gives the keys dangling, reference, label, label!, before, since and until their meaning.
func ParseImageFilter(args Args) (ImageFilter, error) {
	f := ImageFilter{References: args["reference"], Labels: args["label"], NotLabels: args["label!"], Before: args["before"], Since: args["since"]}
	for _, v := range args["dangling"] {
		want, err := strconv.ParseBool(v)
		if err != nil {
			return f, fmt.Errorf("invalid filter 'dangling=%s'", v)
		}
		f.Dangling = append(f.Dangling, want)
	}
	var err error
	if f.Until, err = args.times(); err != nil {
		return f, err
	}
	for _, p := range f.References {
		if _, err := path.Match(p, ""); err != nil {
			return f, fmt.Errorf("invalid filter 'reference=%s': %w", p, err)
		}
	}
	return f, nil
}

// Images returns the images of which a filter lets the name through, the newest first: one of several names comes by each
// of them, which [Summaries] brings together.
func Images(ctx context.Context, s *store.Store, f ImageFilter) ([]store.Image, error) {
	all, err := s.Images(ctx)
	if err != nil {
		return nil, err
	}
	inTime, err := f.times(ctx, s)
	if err != nil {
		return nil, err
	}
	kept := all[:0]
	for _, img := range all {
		if !f.named(img) || !inTime(img) {
			continue
		}
		ok, err := f.labelled(ctx, s, img)
		if err != nil {
			return nil, err
		}
		if ok {
			kept = append(kept, img)
		}
	}
	return kept, nil
}

// named reports whether the name is a wanted one.
func (f *ImageFilter) named(img store.Image) bool {
	if slices.Contains(f.Dangling, img.Tagged()) {
		return false
	}
	return len(f.References) == 0 || slices.ContainsFunc(f.References, func(p string) bool { return matchesName(img, p) })
}

// times looks up the images that the filter names, and returns what tells whether an image is as old as it is to be.
func (f *ImageFilter) times(ctx context.Context, s *store.Store) (func(store.Image) bool, error) {
	before, since := slices.Clone(f.Until), []time.Time(nil)
	for _, of := range []struct {
		names []string
		times *[]time.Time
	}{{f.Before, &before}, {f.Since, &since}} {
		for _, name := range of.names {
			img, err := FindImage(ctx, s, name)
			if err != nil {
				return nil, err
			}
			*of.times = append(*of.times, img.Created)
		}
	}
	return func(img store.Image) bool {
		return olderThan(img.Created, before) && !slices.ContainsFunc(since, func(t time.Time) bool { return !img.Created.After(t) })
	}, nil
}

// labelled reports whether an image has the wanted labels, and no other ones of the filter's. One that was removed
// meanwhile has not.
func (f *ImageFilter) labelled(ctx context.Context, s *store.Store, img store.Image) (bool, error) {
	if len(f.Labels)+len(f.NotLabels) == 0 {
		return true, nil
	}
	config, err := ImageConfig(ctx, s, img.ID)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	labels := config.Config.Labels
	return HasLabels(labels, f.Labels) && !slices.ContainsFunc(f.NotLabels, func(l string) bool { return hasLabel(labels, l) }), nil
}

// matchesName reports whether an image has the repository, or the repository and tag, which may be a
// pattern. The rule is that of reference.FamiliarMatch, which looks at the short form of the name.
func matchesName(i store.Image, pattern string) bool {
	if !i.Tagged() {
		return false
	}
	ref, err := reference.ParseNormalizedNamed(i.Name)
	if err != nil {
		return false
	}
	for _, name := range []string{reference.FamiliarString(ref), reference.FamiliarName(ref), i.Name, ref.Name()} {
		if ok, err := path.Match(pattern, name); ok && err == nil {
			return true
		}
	}
	return false
}

// OfRepository returns those of some images that have a tag in a repository.
func OfRepository(images []store.Image, repository reference.Named) (all []store.Image) {
	for _, img := range images {
		named, err := reference.ParseNormalizedNamed(img.Name)
		if err == nil && img.Tagged() && !img.Pinned() && named.Name() == repository.Name() {
			all = append(all, img)
		}
	}
	return all
}

// Summary is an image with its names.
type Summary struct {
	store.Image           // by the first of the names
	Tags        []string  // REPOSITORY:TAG, none for an image without a name
	Digests     []string  // REPOSITORY@DIGEST of each repository, as far as its registry's digest is known
	Named       time.Time // when it got the last of the names; zero for an image without one
}

// Summaries brings the names of each image together, in the order in which the images come.
func Summaries(images []store.Image) []Summary {
	var all []Summary
	at := map[digest.Digest]int{}
	for _, img := range images {
		i, known := at[img.ID]
		if !known {
			i = len(all)
			at[img.ID] = i
			all = append(all, Summary{Image: img, Tags: []string{}, Digests: []string{}})
		}
		all[i].add(img)
	}
	return all
}

// add adds a name.
func (sum *Summary) add(img store.Image) {
	if !img.Tagged() {
		return
	}
	repo, tag := store.FamiliarName(img.Name)
	if !img.Pinned() {
		sum.Tags = append(sum.Tags, repo+":"+tag)
	}
	if d := repo + "@" + img.RepoDigest().String(); !slices.Contains(sum.Digests, d) {
		sum.Digests = append(sum.Digests, d)
	}
	if img.Named.After(sum.Named) {
		sum.Named = img.Named
	}
}

// NamesOf is the summary of one image, with all names under which the store has what it stands for.
func NamesOf(ctx context.Context, s *store.Store, img store.Image) (Summary, error) {
	sum := Summary{Image: img, Tags: []string{}, Digests: []string{}}
	all, err := s.Images(ctx)
	if err != nil {
		return sum, err
	}
	for _, i := range all {
		if i.Target().Digest == img.Target().Digest {
			sum.add(i)
		}
	}
	return sum, nil
}

// ImageConfig reads the config of an image by its ID: labels and what else Docker keeps there.
func ImageConfig(ctx context.Context, s *store.Store, id digest.Digest) (*dockerspec.DockerOCIImage, error) {
	data, err := s.ReadBlob(ctx, id)
	if err != nil {
		return nil, err
	}
	var config dockerspec.DockerOCIImage
	if err := json.Unmarshal(data, &config); err != nil {
		return nil, fmt.Errorf("decoding the config of image %s: %w", id, err)
	}
	return &config, nil
}

// HistoryStep is a step that made an image.
type HistoryStep struct {
	ocispec.History
	ID   digest.Digest // the image's for its last step, and none for the others: no images are made on the way
	Size int64         // bytes of the files of its layer
}

// ImageHistory lists the steps that made an image, the last one first. Layers that nobody has looked into are read through.
func ImageHistory(ctx context.Context, s *store.Store, img store.Image) ([]HistoryStep, error) {
	config, err := ImageConfig(ctx, s, img.ID)
	if err != nil {
		return nil, err
	}
	var steps []HistoryStep
	layers := img.Layers
	for _, h := range config.History {
		step := HistoryStep{History: h}
		if !h.EmptyLayer && len(layers) > 0 {
			if step.Size, err = s.Size(ctx, layers[0]); err != nil {
				return nil, err
			}
			layers = layers[1:]
		}
		steps = append(steps, step)
	}
	slices.Reverse(steps)
	if len(steps) > 0 {
		steps[0].ID = img.ID
	}
	return steps, nil
}
