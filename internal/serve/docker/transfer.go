package docker

import (
	"bufio"
	"context"
	"io"
	"strings"
	"time"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"

	"github.com/slipway-build/slipway/internal/export"
	"github.com/slipway-build/slipway/internal/load"
	imagesource "github.com/slipway-build/slipway/internal/source/image"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/transfer"
	"github.com/slipway-build/slipway/internal/view"
)

// createImage answers POST /images/create: a pull, or an import.
func (s *Server) createImage(ctx context.Context, r *request) error {
	if r.FormValue("fromImage") == "" {
		return s.importImage(ctx, r)
	}
	ref, err := reference.ParseNormalizedNamed(r.FormValue("fromImage"))
	if err == nil && r.FormValue("tag") != "" {
		ref, err = withTag(reference.TrimNamed(ref), r.FormValue("tag"))
	}
	if err != nil {
		return invalidf("invalid reference format: %v", err)
	}
	w := transfer.Wanted{Mode: imagesource.ResolvePull}
	if text := r.FormValue("platform"); text != "" {
		if w.Platform, err = platforms.Parse(text); err != nil {
			return invalidf("%v", err)
		}
	}
	reg := r.registry(ref)
	names := []string{ref.String()}
	if reference.IsNameOnly(ref) { // all of them, as in Docker
		tags, err := reg.Tags(ctx, ref.Name())
		if err != nil {
			return err
		}
		names = names[:0]
		for _, tag := range tags {
			names = append(names, ref.Name()+":"+tag)
		}
	}
	ctx, b, err := r.backend(ctx)
	if err != nil {
		return err
	}
	out := r.stream()
	source := imagesource.New(b.Store, s.opt.Registry).As("", r.credentials(ref)) // the registry is asked, also for what is here by its digest
	for _, name := range names {
		w.Name = name
		if _, err := transfer.Pull(ctx, b.Store, source, w, out); err != nil {
			return out.end(err)
		}
		s.tellImage(ctx, b.Store, events.ActionPull, view.Familiar(name), repositoryOf(name))
	}
	return nil
}

// withTag adds a tag or a digest to a name.
func withTag(ref reference.Named, tag string) (reference.Named, error) {
	return reference.ParseNormalizedNamed(ref.Name() + separator(tag) + tag)
}

// separator is what stands before a tag, or a digest.
func separator(tag string) string {
	if _, err := reference.Parse("x@" + tag); err == nil {
		return "@"
	}
	return ":"
}

// pushImage answers POST /images/NAME/push.
func (s *Server) pushImage(ctx context.Context, r *request) error {
	ref, err := reference.ParseNormalizedNamed(r.name)
	if err != nil {
		return invalidf("invalid reference format: %v", err)
	}
	tag := r.FormValue("tag")
	if tag != "" {
		if ref, err = reference.WithTag(reference.TrimNamed(ref), tag); err != nil {
			return invalidf("%v", err)
		}
	}
	if _, digested := ref.(reference.Digested); digested {
		return invalidf("cannot push a digest reference")
	}
	p, err := r.platform()
	if err != nil {
		return err
	}
	reg := r.registry(ref)
	ctx, b, err := r.backend(ctx)
	if err != nil {
		return err
	}
	images, err := transfer.ToPush(ctx, b.Store, ref, reference.IsNameOnly(ref))
	if err != nil {
		return err
	}
	out := r.stream()
	out.Printf("The push refers to repository [%s]", ref.Name())
	for _, img := range images {
		desc, err := transfer.Push(ctx, b.Store, reg, img, p, out)
		if err != nil {
			return out.end(err)
		}
		_, tag := store.FamiliarName(img.Name)
		out.aux("", struct {
			Tag, Digest string
			Size        int64
		}{tag, desc.Digest.String(), desc.Size})
		s.tellImage(ctx, b.Store, events.ActionPush, view.Familiar(img.Name), repositoryOf(img.Name))
	}
	return nil
}

// saveImages answers GET /images/get and GET /images/NAME/get.
func (s *Server) saveImages(ctx context.Context, r *request) error {
	wanted, err := r.platforms("platform")
	if err != nil {
		return err
	}
	names := r.Form["names"]
	if r.name != "" {
		names = []string{r.name}
	}
	if len(names) == 0 {
		return invalidf("no images to save: name them by names=")
	}
	ctx, b, err := r.backend(ctx)
	if err != nil {
		return err
	}
	images, err := transfer.Saved(ctx, b.Store, names, wanted)
	if err != nil {
		return err
	}
	r.w.Header().Set("Content-Type", "application/x-tar")
	buf := bufio.NewWriterSize(&begun{r}, 1<<20)
	if err := export.Save(ctx, b.Store, images, buf); err != nil {
		return err
	}
	if err := buf.Flush(); err != nil {
		return err
	}
	for _, img := range images {
		s.tellImage(ctx, b.Store, events.ActionSave, img.Image.ID.String(), img.Image.ID.String())
	}
	return nil
}

// begun notes that the answer has begun when something of it is written.
type begun struct{ r *request }

// Write implements io.Writer.
func (b *begun) Write(p []byte) (int, error) {
	b.r.began = true
	return b.r.w.Write(p)
}

// loadImages answers POST /images/load.
func (s *Server) loadImages(ctx context.Context, r *request) error {
	wanted, err := r.platforms("platform")
	if err != nil {
		return err
	}
	ctx, b, err := r.backend(ctx)
	if err != nil {
		return err
	}
	out := r.stream()
	images, err := load.Load(ctx, b.Store, r.Body, load.Options{Platforms: wanted})
	if err != nil {
		return out.end(err)
	}
	for _, img := range images {
		if !img.Tagged() {
			out.text("Loaded image ID: %s\n", img.ID)
		} else {
			out.text("Loaded image: %s\n", view.Familiar(img.Name))
		}
		s.tellImage(ctx, b.Store, events.ActionLoad, img.ID.String(), img.ID.String())
	}
	return nil
}

// importImage is a tar of a filesystem made an image: of the body, or of a server's file.
func (s *Server) importImage(ctx context.Context, r *request) error {
	opts := load.ImportOptions{Comment: r.FormValue("message"), Created: time.Now().UTC()}
	source := r.FormValue("fromSrc")
	if source == "" {
		return invalidf("one of fromImage and fromSrc is required")
	}
	if text := r.FormValue("platform"); text != "" {
		p, err := platforms.Parse(text)
		if err != nil {
			return invalidf("%v", err)
		}
		p = platforms.Normalize(p)
		opts.Platform = &p
	}
	var err error
	if opts.Config, err = load.ParseChanges(r.Form["changes"]); err != nil {
		return invalidf("%v", err)
	}
	if repo := r.FormValue("repo"); repo != "" {
		if opts.Name, err = view.TagName(repo, r.FormValue("tag")); err != nil {
			return invalidf("%v", err)
		}
	}
	from, body := "-", io.ReadCloser(r.Body)
	if source != "-" {
		if !strings.Contains(source, "://") {
			source = "http://" + source
		}
		if body, err = load.Download(ctx, source, "slipway/"+s.opt.System.Version); err != nil {
			return refusal(err)
		}
		defer body.Close()
		from = source
	}
	if opts.Comment == "" {
		opts.Comment = "Imported from " + from
	}
	ctx, b, err := r.backend(ctx)
	if err != nil {
		return err
	}
	out := r.stream()
	img, err := load.Import(ctx, b.Store, body, opts)
	if err != nil {
		return out.end(err)
	}
	out.Printf("%s", img.ID)
	if opts.Name != "" {
		s.tellImage(ctx, b.Store, events.ActionTag, img.ID.String(), view.Familiar(opts.Name))
	}
	s.tellImage(ctx, b.Store, events.ActionImport, img.ID.String(), img.ID.String())
	return nil
}
