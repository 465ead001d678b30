package view

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/store"
)

// Usage is what takes space of the disk.
type Usage struct {
	Images     store.Usage // one row for each ID
	Containers []ContainerUsage
	Cache      []store.CacheRecord // least recently used first
	Builds     []store.BuildRecord // the newest first
}

// ContainerUsage is a container with the bytes of the files of its writable layer.
type ContainerUsage struct {
	Container
	Own int64
}

// Sum is what things of one kind take.
type Sum struct {
	Total, Active     int   // how many there are, and are in use
	Size, Reclaimable int64 // bytes of the disk, and those of them that nothing in use needs
}

// add adds one thing to a sum.
func (s *Sum) add(active bool, bytes int64) {
	if s.Size += bytes; active {
		s.Active++
	} else {
		s.Reclaimable += bytes
	}
}

// DiskUsage finds out what takes space. Directories that nobody has measured are walked.
func DiskUsage(ctx context.Context, m *container.Manager) (*Usage, error) {
	var u Usage
	var err error
	if u.Images, err = m.Store.ImageUsage(ctx); err != nil {
		return nil, err
	}
	if u.Containers, err = containerUsage(ctx, m); err != nil {
		return nil, err
	}
	if u.Cache, err = CacheRecords(ctx, m.Store, CacheFilter{}); err != nil {
		return nil, err
	}
	u.Builds, err = m.Store.Builds()
	return &u, err
}

func containerUsage(ctx context.Context, m *container.Manager) (all []ContainerUsage, err error) {
	rows, err := chooseContainers(ctx, m, ContainerFilter{All: true})
	if err != nil {
		return nil, err
	}
	for _, c := range rows {
		own, serr := m.Size(c.Container) // who runs in it may see to it that it cannot be told
		if c.Config == nil {
			_, err = container.ReadConfig(c.Container)
		}
		if err != nil || serr != nil {
			if _, gone := m.Store.Container(ctx, c.ID); errors.Is(gone, store.ErrNotFound) {
				continue
			}
		}
		if err != nil {
			return nil, err
		}
		all = append(all, ContainerUsage{c, own})
	}
	return all, nil
}

// VolumeUsage is a volume with the bytes of its files, -1 where they cannot be told, and how many containers have it.
type VolumeUsage struct {
	container.Volume
	Size  int64
	Links int
}

// VolumeUsages are all volumes, whose files are walked.
func VolumeUsages(ctx context.Context, m *container.Manager) (all []VolumeUsage, err error) {
	list, err := m.Volumes()
	if err != nil {
		return nil, err
	}
	users, err := m.VolumeUsers(ctx)
	if err != nil {
		return nil, err
	}
	for _, v := range list {
		size, err := m.VolumeSize(v)
		if err != nil {
			size = -1
		}
		all = append(all, VolumeUsage{v, size, len(users.Of(v))})
	}
	return all, nil
}

// VolumeSum sums volumes up.
func VolumeSum(all []VolumeUsage) Sum {
	sum := Sum{Total: len(all)}
	for _, v := range all {
		sum.add(v.Links > 0, max(v.Size, 0))
	}
	return sum
}

// ImageSum sums images up, those that share layers count them once.
func (u *Usage) ImageSum() Sum {
	sum := Sum{Total: len(u.Images.Images), Size: u.Images.Disk, Reclaimable: u.Images.Reclaimable}
	for _, img := range u.Images.Images {
		if img.Containers > 0 {
			sum.Active++
		}
	}
	return sum
}

// ContainerSum sums containers up.
func (u *Usage) ContainerSum() Sum {
	sum := Sum{Total: len(u.Containers)}
	for _, c := range u.Containers {
		sum.add(c.State.Running, c.Own)
	}
	return sum
}

// CacheSum sums the build cache up. What it shares with images counts as theirs.
func (u *Usage) CacheSum() Sum {
	sum := Sum{Total: len(u.Cache)}
	for _, r := range u.Cache {
		bytes := r.Size
		if r.Shared {
			bytes = 0
		}
		sum.add(r.InUse, bytes)
	}
	return sum
}

// BuildSum sums records of builds up.
func (u *Usage) BuildSum() Sum {
	sum := Sum{Total: len(u.Builds)}
	for _, b := range u.Builds {
		sum.add(b.Running || b.Pinned, b.Size)
	}
	return sum
}

// GivesBack is how much pruning would give back: the build cache but for base images and what is known of servers; all of it, with
// the records of builds; and of everything at least, since more goes of images of containers that go with it.
func (u *Usage) GivesBack() (cache, allCache, everything int64) {
	for _, r := range u.Cache {
		if !r.InUse && !r.Shared && !r.Base && r.Type != store.TypeInternal {
			cache += r.Size
		}
	}
	allCache = u.CacheSum().Reclaimable + u.BuildSum().Reclaimable
	return cache, allCache, allCache + u.ImageSum().Reclaimable + u.ContainerSum().Reclaimable
}

// CacheFilter chooses records of the build cache.
type CacheFilter struct {
	Unused time.Duration // they were not used for so long
	By     []string      // one of these has to match: containerd's filters, of the fields of [store.Policy]
	Beside bool          // builds of this process run: what they use is in use
}

// cacheFields are what users filter the build cache by.
var cacheFields = []string{"until", "id", "parents", "description", "type", "inuse", "mutable", "immutable", "shared", "private"}

var cacheTypes = []string{store.TypeRegular, store.TypeMount, store.TypeGit, store.TypeLocal, store.TypeInternal}

// ParseCacheFilter reads filters of the build cache in buildx' words: until=DURATION is how long something must not have been
// used, id=ID is a part of one, and the others are "field", "field=value", "field!=value" and "field~=expression" of the
// store's filters. All of them have to match.
func ParseCacheFilter(values []string) (f CacheFilter, err error) {
	var all []string
	for _, v := range values {
		key, value, has := strings.Cut(v, "=")
		switch plain := strings.TrimRight(key, "!~"); {
		case plain != "unused-for" && !slices.Contains(cacheFields, plain):
			return f, fmt.Errorf("invalid filter %q: want one of %s", v, strings.Join(cacheFields, ", "))
		case key == "until" || key == "unused-for":
			if f.Unused, err = time.ParseDuration(value); err != nil {
				return f, fmt.Errorf("invalid filter 'until=%s': %w", value, err)
			}
			continue
		case plain == "type" && plain == key && !slices.Contains(cacheTypes, strings.TrimPrefix(value, "=")):
			return f, fmt.Errorf("invalid filter '%s': use %s", v, strings.Join(cacheTypes, ", "))
		case !has:
			all = append(all, plain)
			continue
		}
		value = strings.TrimPrefix(value, "=")
		switch op := key[len(strings.TrimRight(key, "!~")):]; {
		case op != "":
			all = append(all, strings.TrimRight(key, "!~")+op+"="+strconv.Quote(value))
		case key == "id":
			all = append(all, "id~="+strconv.Quote(regexp.QuoteMeta(value)))
		default:
			all = append(all, key+"=="+strconv.Quote(value))
		}
	}
	if len(all) > 0 {
		f.By = []string{strings.Join(all, ",")}
	}
	return f, nil
}

// CacheRecords returns the records of the build cache that a filter lets through, in the order in which they go: least recently
// used first.
func CacheRecords(ctx context.Context, s *store.Store, f CacheFilter) ([]store.CacheRecord, error) {
	list := s.CacheRecords
	if f.Beside {
		list = s.CacheRecordsBeside
	}
	all, err := list(ctx)
	if err == nil {
		all, err = store.FilterCache(all, f.By...)
	}
	if err != nil {
		return nil, err
	}
	if f.Unused > 0 {
		since := time.Now().Add(-f.Unused)
		all = slices.DeleteFunc(all, func(r store.CacheRecord) bool { return r.LastUsed.After(since) })
	}
	slices.SortFunc(all, func(a, b store.CacheRecord) int {
		return cmp.Or(a.LastUsed.Compare(b.LastUsed), cmp.Compare(a.ID, b.ID))
	})
	return all, nil
}
