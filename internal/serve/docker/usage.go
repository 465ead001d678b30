package docker

import (
	"context"
	"net/http"
	"slices"

	"github.com/moby/moby/api/types/build"
	containertypes "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/api/types/volume"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

// diskUsage is what takes the disk, with the fields of clients before 1.53.
type diskUsage struct {
	*legacyUsage
	system.DiskUsage
}

// legacyUsage are those fields; what was not asked for is left out. LayersSize is in bytes.
type legacyUsage struct {
	LayersSize int64                    `json:",omitempty"`
	Images     []compat                 `json:",omitzero"`
	Containers []containertypes.Summary `json:",omitzero"`
	Volumes    []volume.Volume          `json:",omitzero"`
	BuildCache []build.CacheRecord      `json:",omitzero"`
}

// diskUsage answers GET /system/df.
func (s *Server) diskUsage(ctx context.Context, r *request) error {
	types := r.Form["type"]
	if r.before("1.42") {
		types = nil
	}
	for _, t := range types {
		if !slices.Contains([]string{"container", "image", "volume", "build-cache"}, t) {
			return invalidf("unknown object type: %s", t)
		}
	}
	asked := func(t system.DiskUsageObject) bool { return len(types) == 0 || slices.Contains(types, string(t)) }
	ctx, b, err := r.backend(ctx)
	if err != nil {
		return err
	}
	u, err := view.DiskUsage(ctx, &container.Manager{Store: b.Store})
	if err != nil {
		return err
	}
	old := &legacyUsage{}
	out := diskUsage{legacyUsage: old}
	if asked(system.ImageObject) {
		sum := u.ImageSum()
		out.ImageUsage = &image.DiskUsage{ActiveCount: int64(sum.Active), TotalCount: int64(sum.Total), TotalSize: sum.Size, Reclaimable: sum.Reclaimable}
		if out.ImageUsage.Items, err = s.imageUsage(ctx, r, b.Store, u); err != nil {
			return err
		}
		old.LayersSize, old.Images = sum.Size, []compat{}
		for i := range out.ImageUsage.Items {
			old.Images = append(old.Images, r.withVirtualSize(&out.ImageUsage.Items[i]))
		}
	}
	if asked(system.ContainerObject) {
		if old.Containers, err = s.containerUsage(ctx, b); err != nil {
			return err
		}
		sum := u.ContainerSum()
		out.ContainerUsage = &containertypes.DiskUsage{ActiveCount: int64(sum.Active), TotalCount: int64(sum.Total), TotalSize: sum.Size, Reclaimable: sum.Reclaimable, Items: old.Containers}
	}
	if asked(system.VolumeObject) {
		if old.Volumes, out.VolumeUsage, err = s.volumeUsage(ctx, b); err != nil {
			return err
		}
	}
	if asked(system.BuildCacheObject) {
		sum := u.CacheSum()
		old.BuildCache = cacheRecords(u.Cache)
		out.BuildCacheUsage = &build.DiskUsage{ActiveCount: int64(sum.Active), TotalCount: int64(sum.Total), TotalSize: sum.Size, Reclaimable: sum.Reclaimable, Items: old.BuildCache}
	}
	switch { // without verbose both are told, as a client may know either
	case r.before("1.52"):
		out.DiskUsage = system.DiskUsage{}
	case r.flag("verbose"):
		out.legacyUsage = nil
	}
	return r.answer(http.StatusOK, out)
}

// containerUsage are all containers with their sizes.
func (s *Server) containerUsage(ctx context.Context, b *Backend) ([]containertypes.Summary, error) {
	m := s.manager(b)
	list, err := view.Containers(ctx, m, view.ContainerFilter{All: true})
	if err != nil {
		return nil, err
	}
	all := []containertypes.Summary{}
	for _, c := range list {
		row, err := s.containerSummary(ctx, m, c, true)
		if err != nil {
			return nil, err
		}
		row.ImageManifestDescriptor = nil
		all = append(all, *row)
	}
	return all, nil
}

// volumeUsage are all volumes with their sizes, and who has them.
func (s *Server) volumeUsage(ctx context.Context, b *Backend) ([]volume.Volume, *volume.DiskUsage, error) {
	rows, err := view.VolumeUsages(ctx, s.manager(b))
	if err != nil {
		return nil, nil, err
	}
	all := []volume.Volume{}
	for _, v := range rows {
		row := volumeOf(v.Volume)
		row.UsageData = &volume.UsageData{RefCount: int64(v.Links), Size: v.Size} // -1 is Docker's for one that is not known, too
		all = append(all, row)
	}
	sum := view.VolumeSum(rows)
	return all, &volume.DiskUsage{ActiveCount: int64(sum.Active), TotalCount: int64(sum.Total), TotalSize: sum.Size, Reclaimable: sum.Reclaimable, Items: all}, nil
}

// imageUsage are the images with what of their bytes they share.
func (s *Server) imageUsage(ctx context.Context, r *request, st *store.Store, u *view.Usage) ([]image.Summary, error) {
	all := []image.Summary{}
	for _, img := range u.Images.Images {
		sum, err := view.NamesOf(ctx, st, img.Image)
		if err != nil {
			return nil, err
		}
		row, err := s.summary(ctx, r, st, sum, nil)
		if err != nil {
			return nil, err
		}
		row.SharedSize, row.Size, row.Containers = img.Shared, img.Disk, int64(img.Containers)
		all = append(all, *row)
	}
	return all, nil
}

func cacheRecords(list []store.CacheRecord) []build.CacheRecord {
	all := []build.CacheRecord{}
	for _, c := range list {
		row := build.CacheRecord{ID: c.ID, Parents: c.Parents, Type: c.Type, Description: c.Description, InUse: c.InUse, Shared: c.Shared, Size: c.Size, CreatedAt: c.Created, UsageCount: c.Uses}
		if !c.LastUsed.IsZero() {
			row.LastUsedAt = &c.LastUsed
		}
		all = append(all, row)
	}
	return all
}
