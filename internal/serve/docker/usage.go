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
	system.DiskUsage
	*legacyUsage
}

// withoutItems leaves the sums alone, as for who did not ask for more.
func (u *diskUsage) withoutItems() {
	if u.ImageUsage != nil {
		u.ImageUsage.Items = nil
	}
	if u.ContainerUsage != nil {
		u.ContainerUsage.Items = nil
	}
	if u.VolumeUsage != nil {
		u.VolumeUsage.Items = nil
	}
	if u.BuildCacheUsage != nil {
		u.BuildCacheUsage.Items = nil
	}
}

// legacyUsage are those fields. LayersSize is in bytes.
type legacyUsage struct {
	LayersSize int64
	Images     []summary
	Containers []containertypes.Summary
	Volumes    []volume.Volume
	BuildCache []build.CacheRecord
}

// diskUsage answers GET /system/df.
func (s *Server) diskUsage(ctx context.Context, r *request) error {
	types := r.Form["type"]
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
	old := &legacyUsage{Images: []summary{}, Containers: []containertypes.Summary{}, Volumes: []volume.Volume{}, BuildCache: []build.CacheRecord{}}
	out := diskUsage{legacyUsage: old}
	if asked(system.ImageObject) {
		if old.Images, err = s.imageUsage(ctx, r, b.Store, u); err != nil {
			return err
		}
		sum := u.ImageSum()
		old.LayersSize = sum.Size
		out.ImageUsage = &image.DiskUsage{ActiveCount: int64(sum.Active), TotalCount: int64(sum.Total), TotalSize: sum.Size, Reclaimable: sum.Reclaimable}
		for _, row := range old.Images {
			out.ImageUsage.Items = append(out.ImageUsage.Items, row.Summary)
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
	switch {
	case r.before("1.52"):
		out.DiskUsage = system.DiskUsage{}
	case r.flag("verbose"):
		out.legacyUsage = nil
	default:
		out.withoutItems()
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
		all = append(all, *row)
	}
	return all, nil
}

// volumeUsage are all volumes with their sizes, and who has them.
func (s *Server) volumeUsage(ctx context.Context, b *Backend) ([]volume.Volume, *volume.DiskUsage, error) {
	m := s.manager(b)
	list, err := m.Volumes()
	if err != nil {
		return nil, nil, err
	}
	all, sum := []volume.Volume{}, &volume.DiskUsage{}
	for _, v := range list {
		users, err := m.VolumeUsers(ctx, v)
		if err != nil {
			return nil, nil, err
		}
		size, err := m.VolumeSize(v)
		if err != nil {
			size = -1 // Docker's for one that is not known
		}
		row := volumeOf(v)
		row.UsageData = &volume.UsageData{RefCount: int64(len(users)), Size: size}
		all = append(all, row)
		sum.TotalCount++
		sum.TotalSize += max(size, 0)
		if len(users) > 0 {
			sum.ActiveCount++
		} else {
			sum.Reclaimable += max(size, 0)
		}
	}
	sum.Items = all
	return all, sum, nil
}

// imageUsage are the images with what of their bytes they share.
func (s *Server) imageUsage(ctx context.Context, r *request, st *store.Store, u *view.Usage) ([]summary, error) {
	all := []summary{}
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
