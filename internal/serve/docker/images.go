package docker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/storage"

	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

// listImages answers GET /images/json.
func (s *Server) listImages(ctx context.Context, r *request) error {
	args, err := r.args("dangling", "reference", "label", "label!", "before", "since", "until")
	if err != nil {
		return err
	}
	filter, err := view.ParseImageFilter(args)
	if err != nil {
		return invalidf("%v", err)
	}
	if name := r.FormValue("filter"); name != "" && r.before("1.41") { // of old
		filter.References = append(filter.References, name)
	}
	ctx, b, err := r.backend(ctx)
	if err != nil {
		return err
	}
	found, err := view.Images(ctx, b.Store, filter)
	if err != nil {
		return err
	}
	users, err := view.ImageUsers(ctx, b.Store)
	if err != nil {
		return err
	}
	shared := map[string]int64{}
	if r.flag("shared-size") {
		if shared, err = sharedSizes(ctx, b.Store); err != nil {
			return err
		}
	}
	all := []compat{}
	for _, sum := range view.Summaries(found) {
		row, err := s.summary(ctx, r, b.Store, sum, users[sum.ID])
		if errors.Is(err, store.ErrNotFound) { // since we looked
			continue
		}
		if err != nil {
			return err
		}
		if n, ok := shared[row.ID]; ok {
			row.SharedSize = n
		}
		if r.before("1.51") {
			row.Containers = -1
		}
		if r.before("1.48") {
			row.Descriptor = nil
		}
		if r.before("1.43") {
			row.RepoTags, row.RepoDigests = oldNames(row.RepoTags, row.RepoDigests)
		}
		all = append(all, r.withVirtualSize(row))
	}
	return r.answer(http.StatusOK, all)
}

// oldNames are the names of an image in a list of before 1.43: without any it has two that say so.
func oldNames(tags, digests []string) (oldTags, oldDigests []string) {
	if len(tags)+len(digests) == 0 {
		return []string{"<none>:<none>"}, []string{"<none>@<none>"}
	}
	return slices.Concat(tags), slices.Concat(digests) // nil for none
}

// withVirtualSize is an image in a list, with the field of clients before 1.44.
func (r *request) withVirtualSize(row *image.Summary) compat {
	c := compat{document: row}
	if r.before("1.44") {
		c.more = fields{"VirtualSize": row.Size}
	}
	return c
}

// sharedSizes are how many bytes of each image others have too.
func sharedSizes(ctx context.Context, s *store.Store) (map[string]int64, error) {
	u, err := s.ImageUsage(ctx)
	if err != nil {
		return nil, err
	}
	sizes := map[string]int64{}
	for _, img := range u.Images {
		sizes[img.ID.String()] = img.Shared
	}
	return sizes, nil
}

// summary is an image in a list, with the IDs of its containers.
func (s *Server) summary(ctx context.Context, r *request, st *store.Store, sum view.Summary, users []string) (*image.Summary, error) {
	config, err := view.ImageConfig(ctx, st, sum.ID)
	if err != nil {
		return nil, err
	}
	img := sum.Image
	if err := measure(ctx, st, &img); err != nil {
		return nil, err
	}
	target := img.Target()
	row := &image.Summary{
		Containers: int64(len(users)), Created: img.Created.Unix(), ID: img.ID.String(), Labels: map[string]string{}, RepoDigests: sum.Digests, RepoTags: sum.Tags, SharedSize: -1, Size: img.Size, Descriptor: &target,
	}
	maps.Copy(row.Labels, config.Config.Labels)
	if img.Created.IsZero() {
		row.Created = 0
	}
	if r.flag("manifests") && !r.before("1.47") {
		row.Manifests, err = manifests(ctx, st, img, users)
	}
	return row, err
}

// measure fills in the size of an image in a list. One of which a layer is nothing that can be read has none, and does not hide the others.
func measure(ctx context.Context, st *store.Store, img *store.Image) error {
	var bad *store.LayerError
	err := st.Measure(ctx, img)
	if errors.As(err, &bad) && ctx.Err() == nil {
		img.Size, err = 0, nil
	}
	return err
}

// manifests are the manifests of an image.
func manifests(ctx context.Context, st *store.Store, img store.Image, users []string) (all []image.ManifestSummary, err error) {
	list, err := view.Manifests(ctx, st, img)
	if err != nil {
		return nil, err
	}
	for _, m := range list {
		row := image.ManifestSummary{ID: m.Digest.String(), Descriptor: m.Descriptor, Available: m.Here, Kind: image.ManifestKindUnknown}
		row.Size.Content = m.Size
		switch {
		case m.Reference == "attestation-manifest":
			row.Kind, row.AttestationData = image.ManifestKindAttestation, &image.AttestationProperties{For: m.For}
		case m.Platform != nil:
			row.Kind, row.ImageData = image.ManifestKindImage, &image.ImageProperties{Platform: *m.Platform}
			if !m.Here {
				break
			}
			one, err := view.ForPlatform(ctx, st, img, *m.Platform)
			if errors.Is(err, store.ErrNotFound) {
				row.Available = false
				break
			}
			if err == nil {
				err = measure(ctx, st, &one)
			}
			if err != nil {
				return nil, err
			}
			row.ImageData.Size.Unpacked = one.Size
			if one.ID == img.ID {
				row.ImageData.Containers = append(row.ImageData.Containers, users...)
			}
		}
		row.Size.Total = row.Size.Content
		if row.ImageData != nil {
			row.Size.Total += row.ImageData.Size.Unpacked
		}
		all = append(all, row)
	}
	return all, nil
}

// inspectImage answers GET /images/NAME/json.
func (s *Server) inspectImage(ctx context.Context, r *request) error {
	if err := r.checkName(); err != nil {
		return err
	}
	p, err := r.platform()
	if err != nil {
		return err
	}
	if p != nil && r.flag("manifests") {
		return invalidf("conflicting options: manifests and platform options cannot both be set")
	}
	ctx, b, err := r.backend(ctx)
	if err != nil {
		return err
	}
	whole, err := view.UseImage(ctx, b.Store, r.name)
	if err != nil {
		return err
	}
	img, target := whole, whole.Target()
	if p != nil {
		if img, err = view.ForPlatform(ctx, b.Store, whole, *p); err != nil {
			return err
		}
		target = img.Manifest
	}
	config, err := view.ImageConfig(ctx, b.Store, img.ID)
	if err != nil {
		return err
	}
	if err := b.Store.Measure(ctx, &img); err != nil {
		return err
	}
	sum, err := view.NamesOf(ctx, b.Store, whole)
	if err != nil {
		return err
	}
	out := &image.InspectResponse{
		ID: img.ID.String(), RepoTags: sum.Tags, RepoDigests: sum.Digests, Architecture: config.Architecture, Variant: config.Variant, Os: config.OS, OsVersion: config.OSVersion, Author: config.Author,
		Size: img.Size, RootFS: image.RootFS{Type: "layers"}, Metadata: image.Metadata{LastTagTime: sum.Named}, Config: &config.Config, Descriptor: &target,
	}
	if n := len(config.History); n > 0 {
		out.Comment = config.History[n-1].Comment // Docker shows that of the newest layer as the image's
	}
	if config.Created != nil {
		out.Created = config.Created.UTC().Format(time.RFC3339Nano)
	}
	for _, d := range config.RootFS.DiffIDs {
		out.RootFS.Layers = append(out.RootFS.Layers, d.String())
	}
	if r.flag("manifests") && !r.before("1.48") {
		users, err := view.ImageUsers(ctx, b.Store)
		if err != nil {
			return err
		}
		if out.Manifests, err = manifests(ctx, b.Store, whole, users[whole.ID]); err != nil {
			return err
		}
	}
	return r.answer(http.StatusOK, r.oldImage(out))
}

// oldImage is an image with what depends on the client's version: fields that are left out when empty now were always told, and some are gone.
func (r *request) oldImage(img *image.InspectResponse) compat {
	if !r.before("1.52") {
		return compat{document: img}
	}
	img.GraphDriver = &storage.DriverData{Name: "overlayfs"}
	config := fields{"Cmd": nil, "Entrypoint": nil, "Env": nil, "Labels": nil, "OnBuild": nil, "User": "", "Volumes": nil, "WorkingDir": ""}
	more := fields{"Parent": "", "Comment": img.Comment, "DockerVersion": "", "Author": img.Author, "Config": config}
	if r.before("1.50") { // those of a container
		maps.Copy(config, fields{
			"AttachStderr": false, "AttachStdin": false, "AttachStdout": false, "Domainname": "", "Hostname": "", "Image": "", "OpenStdin": false, "StdinOnce": false, "Tty": false,
		})
	}
	if r.before("1.48") {
		img.Descriptor = nil
	}
	if r.before("1.45") {
		maps.Copy(more, fields{"Container": "", "ContainerConfig": nil})
	}
	if r.before("1.44") {
		more["VirtualSize"] = img.Size
		if img.Created == "" {
			img.Created = time.Time{}.Format(time.RFC3339Nano)
		}
	}
	return compat{img, more}
}

// checkName refuses a name that no image can have, nor an ID.
func (r *request) checkName() error {
	if _, err := reference.ParseAnyReference(r.name); err != nil {
		return invalidf("%v", err)
	}
	return nil
}

// imageHistory answers GET /images/NAME/history.
func (s *Server) imageHistory(ctx context.Context, r *request) error {
	if err := r.checkName(); err != nil {
		return err
	}
	p, err := r.platform()
	if err != nil {
		return err
	}
	ctx, b, err := r.backend(ctx)
	if err != nil {
		return err
	}
	img, err := view.UseImage(ctx, b.Store, r.name)
	if err == nil && p != nil {
		img, err = view.ForPlatform(ctx, b.Store, img, *p)
	}
	if err != nil {
		return err
	}
	steps, err := view.ImageHistory(ctx, b.Store, img)
	if err != nil {
		return err
	}
	sum, err := view.NamesOf(ctx, b.Store, img)
	if err != nil {
		return err
	}
	var all []image.HistoryResponseItem // null for an image without one
	for _, h := range steps {
		row := image.HistoryResponseItem{Comment: h.Comment, CreatedBy: h.CreatedBy, ID: "<missing>", Size: h.Size}
		if h.Created != nil {
			row.Created = h.Created.Unix()
		}
		if h.ID != "" {
			row.ID, row.Tags = h.ID.String(), slices.Concat(sum.Tags) // nil for none
		}
		all = append(all, row)
	}
	return r.answer(http.StatusOK, all)
}

// tagImage answers POST /images/NAME/tag.
func (s *Server) tagImage(ctx context.Context, r *request) error {
	if err := r.checkName(); err != nil {
		return err
	}
	name, err := view.TagName(r.FormValue("repo"), r.FormValue("tag"))
	if err != nil {
		return invalidf("%v", err)
	}
	ctx, b, err := r.backend(ctx)
	if err != nil {
		return err
	}
	img, err := view.UseImage(ctx, b.Store, r.name)
	if err != nil {
		return err
	}
	img.Name = name
	if err := b.Store.SetImages(ctx, img); err != nil {
		return err
	}
	s.tellImage(ctx, b.Store, events.ActionTag, img.ID.String(), view.Familiar(name))
	r.began = true
	r.w.WriteHeader(http.StatusCreated)
	return nil
}

// deleteImage answers DELETE /images/NAME.
func (s *Server) deleteImage(ctx context.Context, r *request) error {
	if err := r.checkName(); err != nil {
		return err
	}
	if platforms, err := r.platforms("platforms"); err != nil || len(platforms) > 0 {
		return errors.Join(err, failure{http.StatusNotImplemented, "deleting some platforms of an image is not supported"})
	}
	if err := s.opt.Control.Renew(ctx); err != nil { // what was used before is given back as well
		return err
	}
	ctx, b, err := r.backend(ctx)
	if err != nil {
		return err
	}
	gone, err := view.RemoveImage(ctx, b.Store, r.name, r.flag("force"))
	if err != nil {
		return err
	}
	if slices.ContainsFunc(gone, func(g view.Removed) bool { return g.Deleted }) {
		if _, err := b.Store.CollectBeside(ctx); err != nil {
			s.opt.Warn(fmt.Sprintf("collecting what image %s leaves: %v", r.name, err))
		}
	}
	return r.answer(http.StatusOK, s.deleted(gone))
}

// deleted tells of what went.
func (s *Server) deleted(gone []view.Removed) []image.DeleteResponse {
	all := []image.DeleteResponse{}
	for _, g := range gone {
		if g.Deleted {
			all = append(all, image.DeleteResponse{Deleted: g.ID.String()})
			s.events.image(events.ActionDelete, g.ID.String(), g.ID.String(), nil)
		} else {
			all = append(all, image.DeleteResponse{Untagged: g.Untagged})
			s.events.image(events.ActionUnTag, g.ID.String(), g.Untagged, nil)
		}
	}
	return all
}

// pruneImages answers POST /images/prune: images without a name, or with dangling=false all that no container uses.
func (s *Server) pruneImages(ctx context.Context, r *request) error {
	args, err := r.args("dangling", "label", "label!", "until")
	if err != nil {
		return err
	}
	filter, err := view.ParseImageFilter(args)
	if err != nil {
		return invalidf("%v", err)
	}
	if slices.Contains(filter.Dangling, false) {
		filter.Dangling = nil
	} else {
		filter.Dangling = []bool{true}
	}
	if err := s.opt.Control.Renew(ctx); err != nil {
		return err
	}
	ctx, b, err := r.backend(ctx)
	if err != nil {
		return err
	}
	gone, freed, err := view.PruneImages(ctx, b.Store, filter, b.Store.CollectBeside)
	if err != nil {
		return err
	}
	report := image.PruneReport{SpaceReclaimed: uint64(max(freed, 0))}
	if len(gone) > 0 {
		report.ImagesDeleted = s.deleted(gone)
	}
	s.events.tell(events.ImageEventType, events.ActionPrune, "", map[string]string{"reclaimed": fmt.Sprint(report.SpaceReclaimed)})
	return r.answer(http.StatusOK, report)
}

// searchImages answers GET /images/search.
func (s *Server) searchImages(context.Context, *request) error {
	return failure{http.StatusNotImplemented, "slipway does not search registries: use the registry's own page, such as https://hub.docker.com/search"}
}

// repositoryOf is a name without its tag.
func repositoryOf(name string) string {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return name
	}
	return reference.FamiliarName(ref)
}
